/* The order in which std::nth_element of the GNU C++ library leaves equal elements, swap for swap:
 * introselect, with the pairs of a partition found block-wise and without branches. */
#include "core/prune_ties.h"

#include "core/huge_pages.h"

#include <stdlib.h>

/* torch.topk takes nth_element from this share of the elements on, and a heap below it. */
#define HEAP_SHARE 64

/* Elements looked at between two rounds of swaps; their places fit a byte. */
#define BLOCK 128

/* Key in the upper, place in the lower half. Only the key takes part in comparisons. */
typedef uint64_t element;

#define KEY(element) ((element) >> 32)
#define FIRST_OF(key) ((key) << 32)

static inline void
swap(element *a, element *b)
{
    element kept = *a;
    *a = *b;
    *b = kept;
}

/* Swaps the median of *a, *b and *c with *front. */
static void
median_to_front(element *front, element *a, element *b, element *c)
{
    element *median;
    if (KEY(*a) < KEY(*b)) {
        median = KEY(*b) < KEY(*c) ? b : KEY(*a) < KEY(*c) ? c : a;
    } else {
        median = KEY(*a) < KEY(*c) ? a : KEY(*b) < KEY(*c) ? c : b;
    }
    swap(front, median);
}

/* Hoare's partition of [first, last) around `key`, which must be among the keys just before it: the
 * i-th element from the left that is not below changes places with the i-th from the right that is
 * not above, until they meet. Returns where. */
static element *
partition(element *first, element *last, uint64_t key)
{
    const element lowest = FIRST_OF(key);
    const element beyond = FIRST_OF(key + 1);
    uint8_t left[BLOCK];
    uint8_t right[BLOCK];
    int lefts = 0, left_done = 0, rights = 0, right_done = 0;
    while (last - first >= 2 * BLOCK) {
        if (left_done == lefts) {
            left_done = lefts = 0;
            for (int i = 0; i < BLOCK; i++) {
                left[lefts] = (uint8_t)i;
                lefts += first[i] >= lowest;
            }
        }
        if (right_done == rights) {
            right_done = rights = 0;
            for (int i = 0; i < BLOCK; i++) {
                right[rights] = (uint8_t)i;
                rights += last[-1 - i] < beyond;
            }
        }
        int left_rest = lefts - left_done;
        int right_rest = rights - right_done;
        int pairs = left_rest < right_rest ? left_rest : right_rest;
        for (int i = 0; i < pairs; i++) {
            swap(first + left[left_done + i], last - 1 - right[right_done + i]);
        }
        left_done += pairs;
        right_done += pairs;
        first += left_done == lefts ? BLOCK : 0;
        last -= right_done == rights ? BLOCK : 0;
    }
    first += left_done < lefts ? left[left_done] : 0;
    last -= right_done < rights ? right[right_done] : 0;
    for (;;) {
        while (*first < lowest) {
            first++;
        }
        last--;
        while (*last >= beyond) {
            last--;
        }
        if (first >= last) {
            return first;
        }
        swap(first, last);
        first++;
    }
}

/* At most 3 elements. */
static void
sort_few(element *first, const element *last)
{
    for (element *next = first + 1; next < last; next++) {
        element moved = *next;
        element *to = next;
        for (; to > first && KEY(moved) < KEY(to[-1]); to--) {
            *to = to[-1];
        }
        *to = moved;
    }
}

/* Moves the elements up to *nth in front of the larger ones; false where the GNU C++ library turns
 * to a heap, since the ranges do not get smaller fast enough. */
static bool
select_front(element *first, const element *nth, element *last)
{
    int depth = 0;
    for (int64_t count = last - first; count > 1; count >>= 1) {
        depth += 2;
    }
    while (last - first > 3) {
        if (depth-- == 0) {
            return false;
        }
        median_to_front(first, first + 1, first + (last - first) / 2, last - 1);
        element *cut = partition(first + 1, last, KEY(*first));
        if (cut <= nth) {
            first = cut;
        } else {
            last = cut;
        }
    }
    sort_few(first, last);
    return true;
}

/* The elements of the layer's weights. NaN are larger than infinity and equal to each other. */
static void
fill(element *restrict elements, const y5_prune_layer *layer)
{
    if (layer->dtype == Y5_FLOAT32) {
        const uint32_t *words = layer->weights;
        for (int64_t i = 0; i < layer->numel; i++) {
            uint64_t key = words[i] & 0x7fffffffU;
            elements[i] = FIRST_OF(key > 0x7f800000U ? 0x7f800001U : key) | (uint64_t)i;
        }
        return;
    }
    const uint16_t *words = layer->weights;
    const uint64_t infinity = layer->dtype == Y5_FLOAT16 ? 0x7c00 : 0x7f80;
    for (int64_t i = 0; i < layer->numel; i++) {
        uint64_t key = words[i] & 0x7fffU;
        elements[i] = FIRST_OF(key > infinity ? infinity + 1 : key) | (uint64_t)i;
    }
}

/* pruned = weight for the weights with this key, but 0 * weight at the places of `chosen`. */
#define ZERO_CHOSEN(bits)                                                                          \
    static void zero_chosen_##bits(const y5_prune_layer *layer, const element *chosen,             \
                                   uint##bits##_t key, uint##bits##_t infinity)                    \
    {                                                                                              \
        const uint##bits##_t sign = (uint##bits##_t)1 << (bits - 1);                               \
        const uint##bits##_t *restrict weights = layer->weights;                                   \
        uint##bits##_t *restrict pruned = layer->pruned;                                           \
        for (int64_t i = 0; i < layer->numel; i++) {                                               \
            pruned[i] = (weights[i] & ~sign) == key ? weights[i] : pruned[i];                      \
        }                                                                                          \
        /* The sign of a finite weight stays; 0 * infinity is NaN. */                              \
        uint##bits##_t nan = (uint##bits##_t)(infinity | ((infinity & -infinity) >> 1));           \
        for (int64_t i = 0; i < layer->count; i++) {                                               \
            if (KEY(chosen[i]) == key) {                                                           \
                uint32_t at = (uint32_t)chosen[i];                                                 \
                pruned[at] = (uint##bits##_t)((weights[at] & sign) | (key == infinity ? nan : 0)); \
            }                                                                                      \
        }                                                                                          \
    }

ZERO_CHOSEN(16)
ZERO_CHOSEN(32)

bool
y5_prune_choose_ties(const y5_prune_layer *layer)
{
    if (layer->dtype == Y5_FLOAT64 || layer->numel > UINT32_MAX || layer->count < 1 ||
        layer->count <= layer->numel / HEAP_SHARE) {
        return false;
    }
    element *elements = malloc((size_t)layer->numel * sizeof(*elements));
    if (elements == NULL) {
        return false;
    }
    y5_advise_huge_pages(elements, layer->numel * (int64_t)sizeof(*elements));
    fill(elements, layer);
    const element *last = elements + layer->count - 1;
    bool found = select_front(elements, last, elements + layer->numel);
    if (found && layer->dtype == Y5_FLOAT32) {
        zero_chosen_32(layer, elements, (uint32_t)KEY(*last), 0x7f800000);
    } else if (found) {
        uint16_t infinity = layer->dtype == Y5_FLOAT16 ? 0x7c00 : 0x7f80;
        zero_chosen_16(layer, elements, (uint16_t)KEY(*last), infinity);
    }
    free(elements);
    return found;
}
