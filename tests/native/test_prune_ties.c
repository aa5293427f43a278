/* core/prune_ties.c against the same selection written plainly, one comparison at a time. That it
 * is torch's is shown in Python (tests/unit/test_prune_ties.py). */
#include "core/prune_ties.h"
#include "support.h"
#include "test_core.h"

#include <math.h>
#include <string.h>

typedef struct {
    double magnitude;
    int64_t place;
} ranked;

static bool
less(ranked a, ranked b)
{
    return (!isnan(a.magnitude) && isnan(b.magnitude)) || a.magnitude < b.magnitude;
}

static void
exchange(ranked *a, ranked *b)
{
    ranked kept = *a;
    *a = *b;
    *b = kept;
}

/* Hoare's partition of [first, last) around the median of three, which goes in front of it. */
static ranked *
split(ranked *first, ranked *last)
{
    ranked *a = first + 1;
    ranked *b = first + (last - first) / 2;
    ranked *c = last - 1;
    if (less(*a, *b)) {
        exchange(first, less(*b, *c) ? b : less(*a, *c) ? c : a);
    } else {
        exchange(first, less(*a, *c) ? a : less(*b, *c) ? c : b);
    }
    ranked *pivot = first;
    for (first++;; first++) {
        for (; less(*first, *pivot); first++) {
        }
        for (last--; less(*pivot, *last); last--) {
        }
        if (first >= last) {
            return first;
        }
        exchange(first, last);
    }
}

/* False where the depth limit is met. */
static bool
select_plainly(ranked *first, const ranked *nth, ranked *last)
{
    int32_t depth = 2 * (int32_t)floor(log2((double)(last - first)));
    for (; last - first > 3; depth--) {
        if (depth == 0) {
            return false;
        }
        ranked *cut = split(first, last);
        first = cut <= nth ? cut : first;
        last = cut <= nth ? last : cut;
    }
    for (ranked *next = first; next < last; next++) {
        for (ranked *to = next; to > first && less(*to, to[-1]); to--) {
            exchange(to, to - 1);
        }
    }
    return true;
}

/* Runs both on one layer; counts what was left to torch. */
static void
check_choice(y5_level level, const void *weights, int64_t numel, int64_t count, y5_dtype dtype,
             int64_t *left)
{
    int64_t bytes = numel * (int64_t)y5_dtype_bytes(dtype);
    void *pruned = allocate(bytes);
    void *expected = allocate(bytes);
    ranked *order = allocate(numel * (int64_t)sizeof(*order));
    for (int64_t i = 0; i < numel; i++) {
        order[i] = (ranked){fabs(get_element(weights, i, dtype)), i};
    }
    y5_prune_layer layer = {weights, pruned, numel, count, dtype, false};
    y5_run run = {level, {NULL, 1}};
    y5_prune(&run, &layer, 1, false);
    bool ambiguous = layer.ambiguous;
    memcpy(expected, pruned, (size_t)bytes);
    y5_prune(&run, &layer, 1, true);
    bool known = dtype != Y5_FLOAT64 && count * 64 > numel &&
                 select_plainly(order, order + count - 1, order + numel);
    CHECK(layer.ambiguous == (ambiguous && !known), "%d of %d, dtype %d", (int)count, (int)numel,
          dtype);
    if (ambiguous && known) {
        memcpy(expected, weights, (size_t)bytes);
        for (int64_t i = 0; i < count; i++) {
            double weight = get_element(weights, order[i].place, dtype);
            set_element(expected, order[i].place, dtype, 0.0 * weight);
        }
    }
    *left += layer.ambiguous;
    for (int64_t i = 0; i < numel; i++) {
        CHECK(same_element(pruned, expected, i, dtype), "element %d of %d, %d pruned, dtype %d",
              (int)i, (int)numel, (int)count, dtype);
    }
}

/* Few values, many values, values that rise and fall, and now and then one that is not finite. */
static double
value(int64_t kind, int64_t at, int64_t numel)
{
    switch (kind) {
    case 0:
        return (double)random_between(-3, 3);
    case 1:
        return (double)random_between(-2000, 2000);
    case 2:
        return (double)(at < numel / 2 ? at
                                       : numel - at); /* into the depth limit, for some sizes */
    case 3:
        return random_between(0, 3) == 0 ? (double)INFINITY : random_between(0, 1) ? NAN : -1.0;
    default:
        return (double)(at * 7 / numel) - 3.0;
    }
}

/* Weights of one kind. Among the NaN some have bits of their own, which make no difference. */
static void *
make_weights(int64_t kind, int64_t numel, y5_dtype dtype)
{
    void *weights = allocate(numel * (int64_t)y5_dtype_bytes(dtype));
    for (int64_t at = 0; at < numel; at++) {
        set_element(weights, at, dtype, value(kind, at, numel));
        if (dtype == Y5_FLOAT32 && isnan(get_element(weights, at, dtype)) && at % 2 == 0) {
            ((uint32_t *)weights)[at] = 0x7f800001U + (uint32_t)at;
        }
    }
    return weights;
}

void
test_prune_ties(y5_level level)
{
    static const int64_t sizes[] = {2, 3, 4, 5, 130, 257, 258, 259, 300, 1024, 8192, 30000};
    int64_t left = 0;
    for (int32_t i = 0; i < (brief ? 10 : 12); i++) {
        for (int64_t kind = 0; kind < 5; kind++) {
            for (int dtype = 0; dtype < Y5_FLOATING_COUNT; dtype++) {
                int64_t numel = sizes[i];
                void *weights = make_weights(kind, numel, (y5_dtype)dtype);
                int64_t counts[] = {
                    1,     numel / 50 + 1,          numel / 10, numel * 3 / 10, numel - 1,
                    numel, random_between(1, numel)};
                for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
                    check_choice(level, weights, numel, counts[c], (y5_dtype)dtype, &left);
                }
                free_all();
            }
        }
    }
    CHECK(left > 0, "nothing met a limit");
    for (int64_t numel = 100; numel < 400; numel++) { /* some of these meet the limit exactly */
        void *weights = make_weights(2, numel, Y5_FLOAT32);
        for (int64_t part = 1; part < 8; part++) {
            check_choice(level, weights, numel, numel * part / 8, Y5_FLOAT32, &left);
        }
        free_all();
    }
}
