/* core/mt19937.c at one level against drawing one number after the other, as the textbook has it:
 * from every place in a block, over every distance that ends in this one or the next two. */
#include "core/ops.h"
#include "support.h"
#include "test_core.h"

#include <string.h>

/* The generator as it is published: words in a ring, each made anew when its turn comes. */
static uint32_t
draw(y5_mt19937 *generator)
{
    if (--generator->left == 0) {
        uint32_t *words = generator->words;
        for (uint32_t i = 0; i < 624; i++) {
            uint64_t y = (words[i] & 0x80000000U) + (words[(i + 1) % 624] % 0x80000000U);
            words[i] = words[(i + 397) % 624] ^ (uint32_t)(y / 2);
            if (y % 2 == 1) {
                words[i] ^= 2567483615U;
            }
        }
        generator->left = 624;
        generator->next = 0;
    }
    uint32_t y = generator->words[generator->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 2636928640U;
    y ^= (y << 15) & 4022730752U;
    return y ^ (y >> 18);
}

static void
draw_many(y5_mt19937 *generator, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        (void)draw(generator);
    }
}

static y5_mt19937
seeded(uint32_t seed)
{
    y5_mt19937 generator = {1, 0, {seed}};
    for (uint32_t i = 1; i < 624; i++) {
        uint32_t before = generator.words[i - 1];
        generator.words[i] = 1812433253U * (before ^ before >> 30) + i;
    }
    return generator;
}

static void
check_skip(y5_level level, const y5_mt19937 *start, int64_t draws)
{
    y5_mt19937 expected = *start;
    y5_mt19937 found = *start;
    draw_many(&expected, draws);
    CHECK(y5_mt19937_is_valid(&found), "left %d, next %u", (int)found.left, (unsigned)found.next);
    y5_mt19937_skip(level, &found, (uint64_t)draws);
    CHECK(found.left == expected.left && found.next == expected.next,
          "%d draws from left %d: left %d, not %d; next %u, not %u", (int)draws, (int)start->left,
          (int)found.left, (int)expected.left, (unsigned)found.next, (unsigned)expected.next);
    CHECK(memcmp(found.words, expected.words, sizeof(found.words)) == 0,
          "%d draws from left %d: other words", (int)draws, (int)start->left);
}

static void
check_what_is_valid(void)
{
    static const struct {
        int32_t left;
        uint32_t next;
        bool valid;
    } cases[] = {
        {1, 0, true},    {1, 624, true}, {624, 1, true},           {2, 623, true},  {625, 0, false},
        {0, 625, false}, {0, 0, false},  {-1, 626, false},         {624, 2, false}, {624, 0, false},
        {1, 625, false}, {2, 0, false},  {625, UINT32_MAX, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        y5_mt19937 generator = {cases[i].left, cases[i].next, {0}};
        CHECK(y5_mt19937_is_valid(&generator) == cases[i].valid, "left %d, next %u",
              (int)cases[i].left, (unsigned)cases[i].next);
    }
}

void
test_mt19937(y5_level level)
{
    y5_mt19937 generator = seeded(5489);
    draw_many(&generator, 9999);
    uint32_t number = draw(&generator); /* the value that the C++ standard gives */
    CHECK(number == 4123659995U, "the 10000th number is %u", (unsigned)number);

    check_what_is_valid();
    int64_t step = brief ? 97 : 5; /* both without a divisor in common with 624 */
    y5_mt19937 start = seeded((uint32_t)random_bits());
    for (int64_t place = 0; place < 1250; place += step) {
        for (int64_t draws = place % step; draws < 1900; draws += step) {
            check_skip(level, &start, draws);
        }
        for (int64_t draws = 622; draws <= 626; draws++) {
            check_skip(level, &start, draws);
            check_skip(level, &start, draws + 624);
        }
        check_skip(level, &start, start.left);
        check_skip(level, &start, start.left - 1);
        draw_many(&start, step);
    }
    check_skip(level, &start, brief ? 100000 : 3000000);
}
