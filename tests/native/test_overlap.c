/* core/overlap.c against a comparison of every range with every other. */
#include "core/overlap.h"
#include "support.h"
#include "test_core.h"

#include <string.h>

#define MAX_RANGES 600

static y5_overlap
compare_all(const y5_range *ranges, int64_t count)
{
    y5_overlap found = Y5_APART;
    for (int64_t i = 0; i < count; i++) {
        for (int64_t k = 0; k < i; k++) {
            const y5_range *a = &ranges[i];
            const y5_range *b = &ranges[k];
            bool empty = a->begin == a->end || b->begin == b->end;
            if (empty || a->end <= b->begin || b->end <= a->begin) {
                continue;
            }
            if (a->written != b->written) {
                return Y5_READ_WRITTEN;
            }
            if (a->written) {
                found = Y5_WRITTEN_TWICE;
            }
        }
    }
    return found;
}

/* Addresses of one kind per call: crowded or sparse, low or using all bytes of an address. */
static void
draw(y5_range *ranges, int64_t count, int64_t kind)
{
    static const uintptr_t bases[] = {0, 1, 0x7f1234560000U, 0xfedcba9876540000U};
    uintptr_t base = bases[kind % 4];
    uintptr_t spread = kind & 4 ? 8 : kind & 8 ? 4000 : (uintptr_t)1 << 45;
    int64_t longest = kind & 16 ? 3 : 40;
    for (int64_t i = 0; i < count; i++) {
        ranges[i].begin = base + random_bits() % spread;
        ranges[i].end = ranges[i].begin + (uintptr_t)random_between(0, longest);
        ranges[i].written = kind & 128 || random_between(0, kind & 32 ? 1 : 20) == 0;
        if (kind & 64) { /* apart from each other, except for a few */
            ranges[i].begin = base + (uintptr_t)i * 50 + (random_bits() % 200 == 0 ? 30 : 0);
            ranges[i].end = ranges[i].begin + (uintptr_t)random_between(0, 50);
        }
    }
}

static void
check_random_ranges(void)
{
    static y5_range ranges[MAX_RANGES];
    static y5_range scratch[MAX_RANGES];
    int64_t answers[3] = {0};
    for (int64_t round = 0; round < (brief ? 1000 : 20000); round++) {
        int64_t count = round % 50 == 0 ? MAX_RANGES : random_between(0, 12);
        draw(ranges, count, random_between(0, 255));
        y5_overlap expected = compare_all(ranges, count);
        y5_overlap found = y5_find_overlap(ranges, scratch, count);
        CHECK(found == expected, "round %lld: %d, not %d", (long long)round, found, expected);
        answers[expected]++;
    }
    for (int i = 0; i < 3; i++) {
        CHECK(answers[i] > (brief ? 20 : 400), "answer %d was due %d times", i, (int)answers[i]);
    }
}

/* Neighbours that touch, the same range twice, empty ranges inside others: both orders of each. */
static void
check_ties(void)
{
    static const struct {
        y5_range ranges[2];
        y5_overlap expected;
    } cases[] = {
        {{{10, 20, true}, {20, 30, false}}, Y5_APART},
        {{{10, 20, true}, {20, 30, true}}, Y5_APART},
        {{{10, 21, true}, {20, 30, true}}, Y5_WRITTEN_TWICE},
        {{{10, 21, true}, {20, 30, false}}, Y5_READ_WRITTEN},
        {{{10, 21, false}, {20, 30, true}}, Y5_READ_WRITTEN},
        {{{10, 20, true}, {10, 20, true}}, Y5_WRITTEN_TWICE},
        {{{10, 20, true}, {10, 20, false}}, Y5_READ_WRITTEN},
        {{{10, 20, false}, {10, 20, false}}, Y5_APART},
        {{{10, 20, true}, {12, 13, false}}, Y5_READ_WRITTEN},
        {{{10, 20, true}, {15, 15, false}}, Y5_APART},
        {{{15, 15, true}, {10, 20, false}}, Y5_APART},
        {{{10, 10, true}, {10, 20, false}}, Y5_APART},
        {{{0, 0, true}, {0, 0, false}}, Y5_APART},
        {{{UINTPTR_MAX - 1, UINTPTR_MAX, true}, {0, 1, true}}, Y5_APART},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int turned = 0; turned < 2; turned++) {
            y5_range ranges[2] = {cases[i].ranges[turned], cases[i].ranges[1 - turned]};
            y5_range scratch[2];
            y5_overlap found = y5_find_overlap(ranges, scratch, 2);
            CHECK(found == cases[i].expected, "case %zu: %d", i, found);
        }
    }
    CHECK(y5_find_overlap(NULL, NULL, 0) == Y5_APART, "no ranges");
    /* A long range must not be forgotten behind a short one. */
    y5_range three[3] = {{0, 100, true}, {10, 11, true}, {50, 60, false}};
    y5_range scratch[3];
    CHECK(y5_find_overlap(three, scratch, 3) == Y5_READ_WRITTEN, "behind a shorter one");
}

void
test_overlap(void)
{
    check_random_ranges();
    check_ties();
}
