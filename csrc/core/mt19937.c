/* Skipping numbers of the Mersenne Twister: what is left of a draw when nobody wants the number is
 * the twist of all words, once in 624 draws. Knows nothing of torch's own way to write a state. */
#include "core/ops.h"

/* How far from a word the one lies that is mixed into it; from WRAPS on, that is one of the words
 * already made anew. */
#define DISTANCE 397
#define WRAPS (Y5_MT19937_WORDS - DISTANCE)
#define LAST (Y5_MT19937_WORDS - 1)

typedef void (*twist_kernel)(uint32_t *words);

#define Y5_KERNEL_FILE "core/mt19937.inc"
#include "core/levels.h"

static const twist_kernel kernels[Y5_LEVEL_COUNT] = Y5_EACH_LEVEL(twist);

bool
y5_mt19937_is_valid(const y5_mt19937 *generator)
{
    int64_t left = generator->left;
    bool is_fresh = left == 1 && generator->next == 0;
    bool has_drawn = (int64_t)generator->next + left == Y5_MT19937_WORDS + 1;
    return left >= 1 && left <= Y5_MT19937_WORDS && (is_fresh || has_drawn);
}

void
y5_mt19937_skip(y5_level level, y5_mt19937 *generator, uint64_t draws)
{
    uint64_t left = (uint64_t)generator->left;
    if (draws < left) {
        generator->left -= (int32_t)draws;
        generator->next += (uint32_t)draws;
        return;
    }
    uint64_t behind = draws - left; /* the draws behind the one that twists first */
    for (uint64_t twists = 1 + behind / Y5_MT19937_WORDS; twists > 0; twists--) {
        kernels[level](generator->words);
    }
    generator->next = 1 + (uint32_t)(behind % Y5_MT19937_WORDS);
    generator->left = Y5_MT19937_WORDS + 1 - (int32_t)generator->next;
}
