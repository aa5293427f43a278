/* core/prune.c at one level against a full sort: every dtype, sizes around every block, data on
 * which selection algorithms are slow or go wrong, several layers on several threads. */
#include "core/ops.h"
#include "prune_oracle.h"
#include "support.h"
#include "test_core.h"

#include <math.h>
#include <string.h>

/* One result against the order of its weights; `expected` is room for them. */
static void
check_result(const y5_prune_layer *layer, const ranked *order, void *expected, const char *what)
{
    prune_in_order(layer, order, expected);
    for (int64_t i = 0; i < layer->numel; i++) {
        CHECK(same_element(layer->pruned, expected, i, layer->dtype),
              "%s, dtype %d, element %d of %d, %d pruned", what, layer->dtype, (int)i,
              (int)layer->numel, (int)layer->count);
    }
    CHECK(layer->ambiguous == choice_shows(layer, order), "%s, dtype %d, %d of %d pruned", what,
          layer->dtype, (int)layer->count, (int)layer->numel);
}

/* All interesting counts of one layer, which starts at any element of its memory. */
static void
check_layer(y5_level level, const void *weights, int64_t numel, y5_dtype dtype, const char *what)
{
    int64_t width = (int64_t)y5_dtype_bytes(dtype);
    int64_t skipped = random_between(0, 3) * width;
    char *copy = allocate(skipped + numel * width);
    char *pruned = allocate(skipped + numel * width);
    char *expected = allocate(numel * width);
    if (numel > 0) {
        memcpy(copy + skipped, weights, (size_t)(numel * width));
    }
    ranked *order = rank_elements(weights, numel, dtype);
    int64_t counts[] = {0, 1, numel / 3, numel / 2, numel - 1, numel, random_between(0, numel)};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        if (counts[i] < 0 || counts[i] > numel) {
            continue;
        }
        y5_prune_layer layer = {copy + skipped, pruned + skipped, numel, counts[i], dtype, false};
        y5_run run = {level, {NULL, 1}};
        y5_prune(&run, &layer, 1, false);
        check_result(&layer, order, expected, what);
        CHECK(numel == 0 || memcmp(copy + skipped, weights, (size_t)(numel * width)) == 0,
              "%s: weights changed", what);
    }
}

typedef double (*maker)(int64_t index, int64_t numel);

static double
rising(int64_t index, int64_t numel)
{
    return (double)(index + 1) / (double)numel;
}

static double
falling(int64_t index, int64_t numel)
{
    return -(double)(numel - index) / (double)numel;
}

static double
organ_pipe(int64_t index, int64_t numel)
{
    return (double)(index < numel / 2 ? index : numel - index) / (double)numel - 0.1;
}

/* What makes a median of three choose badly, again and again (Musser 1997). */
static double
median_killer(int64_t index, int64_t numel)
{
    int64_t half = numel / 2;
    if (index >= half) {
        return (double)(2 * (index - half + 1));
    }
    return (double)(index % 2 == 0 ? index + 1 : half + index);
}

static double
two_values(int64_t index, int64_t numel)
{
    (void)numel;
    return index % 7 == 3 || index % 5 == 1 ? -1.0 : 2.0;
}

static double
all_equal(int64_t index, int64_t numel)
{
    (void)numel;
    return index % 2 ? -0.25 : 0.25;
}

static double
zeros(int64_t index, int64_t numel)
{
    (void)numel;
    return index % 3 ? -0.0 : 0.0;
}

/* Most in one binade, as weights are, and a few far away. */
static double
crowded(int64_t index, int64_t numel)
{
    (void)numel;
    double value = 1.0 + (double)random_between(0, 200) / 65536.0;
    return index % 997 == 5 ? value * 1e4 : index % 991 == 7 ? value * 1e-4 : value;
}

static double
not_finite(int64_t index, int64_t numel)
{
    (void)numel;
    static const double values[] = {(double)INFINITY, -(double)INFINITY, (double)NAN, 1.0, -1.0};
    return values[(index * 3 + index / 5) % 5];
}

static const struct {
    const char *name;
    maker make;
} kinds[] = {
    {"rising", rising},        {"falling", falling},       {"organ pipe", organ_pipe},
    {"killer", median_killer}, {"two values", two_values}, {"all equal", all_equal},
    {"zeros", zeros},          {"crowded", crowded},       {"not finite", not_finite},
};

#define CROWDED 7 /* number of that kind */

static void
check_kinds(y5_level level, y5_dtype dtype)
{
    static const int64_t sizes[] = {64, 1025, 4097, 40000, 300001};
    int32_t used = brief ? 3 : dtype == Y5_FLOAT32 ? 5 : 3;
    for (int32_t i = 0; i < used; i++) {
        void *weights = allocate(sizes[i] * (int64_t)y5_dtype_bytes(dtype));
        size_t first = i < 4 ? 0 : CROWDED; /* of the largest, those with most work */
        for (size_t kind = first; kind < sizeof(kinds) / sizeof(kinds[0]); kind++) {
            for (int64_t at = 0; at < sizes[i]; at++) {
                set_element(weights, at, dtype, kinds[kind].make(at, sizes[i]));
            }
            check_layer(level, weights, sizes[i], dtype, kinds[kind].name);
        }
        free_all();
    }
}

static void
check_sizes(y5_level level, y5_dtype dtype)
{
    static const int64_t around[] = {127, 255, 511, 1023, 2047, 4095, 8191, 32767, 65535, 131071};
    int64_t few = brief ? 40 : 100;
    int64_t sizes = few + (brief ? 6 : dtype == Y5_FLOAT32 ? 10 : 8) * 3;
    for (int64_t i = 0; i < sizes; i++) {
        int64_t numel = i < few ? i : around[(i - few) / 3] + (i - few) % 3;
        void *weights = allocate(numel * (int64_t)y5_dtype_bytes(dtype));
        fill(weights, numel, dtype);
        check_layer(level, weights, numel, dtype, "random");
        free_all();
    }
}

/* A layer that is written past the caches, from 1 MiB on. */
static void
check_large(y5_level level, y5_dtype dtype)
{
    int64_t numel = ((int64_t)1 << 20) / (int64_t)y5_dtype_bytes(dtype) + 77;
    void *weights = allocate(numel * (int64_t)y5_dtype_bytes(dtype));
    for (int64_t at = 0; at < numel; at++) {
        set_element(weights, at, dtype, crowded(at, numel));
    }
    check_layer(level, weights, numel, dtype, "large");
    free_all();
}

/* There, a tail of every length behind whole steps of 1024 bytes: nothing is pruned, so that it
 * needs no order. */
static void
check_tails(y5_level level, y5_dtype dtype)
{
    int64_t width = (int64_t)y5_dtype_bytes(dtype);
    int64_t least = ((int64_t)1 << 20) / width;
    int64_t tails = 1024 / width;
    char *weights = allocate((least + tails) * width);
    char *pruned = allocate((least + tails) * width);
    fill(weights, least + tails, dtype);
    for (int64_t tail = random_between(0, brief ? 30 : 0); tail < tails; tail += brief ? 31 : 1) {
        int64_t bytes = (least + tail) * width;
        memset(pruned, 0x55, (size_t)bytes);
        y5_prune_layer layer = {weights, pruned, least + tail, 0, dtype, false};
        y5_run run = {level, {NULL, 1}};
        y5_prune(&run, &layer, 1, false);
        CHECK(memcmp(pruned, weights, (size_t)bytes) == 0, "dtype %d, a tail of %d", dtype,
              (int)tail);
    }
    free_all();
}

/* Layers of all types and sizes, empty ones among them, drawn from one queue. */
static void
check_queue(y5_level level)
{
    enum { LAYERS = 24 };
    y5_prune_layer layers[LAYERS];
    for (int32_t threads = 1; threads <= 4; threads++) {
        for (int64_t i = 0; i < LAYERS; i++) {
            y5_dtype dtype = (y5_dtype)(i % Y5_FLOATING_COUNT);
            int64_t numel = i % 9 == 8 ? 0 : random_between(1, brief ? 900 : 20000);
            int64_t bytes = numel * (int64_t)y5_dtype_bytes(dtype);
            void *weights = allocate(bytes);
            fill(weights, numel, dtype);
            layers[i] = (y5_prune_layer){
                weights, allocate(bytes), numel, random_between(0, numel), dtype, false};
        }
        pool_set_threads(threads);
        y5_run run = {level, {pool_run, threads}};
        y5_prune(&run, layers, LAYERS, false);
        for (int64_t i = 0; i < LAYERS; i++) {
            const y5_prune_layer *layer = &layers[i];
            ranked *order = rank_elements(layer->weights, layer->numel, layer->dtype);
            void *expected = allocate(layer->numel * (int64_t)y5_dtype_bytes(layer->dtype));
            check_result(layer, order, expected, "one of many");
        }
        free_all();
    }
}

void
test_prune(y5_level level)
{
    for (int dtype = 0; dtype < Y5_FLOATING_COUNT; dtype++) {
        check_sizes(level, (y5_dtype)dtype);
        check_kinds(level, (y5_dtype)dtype);
        check_tails(level, (y5_dtype)dtype);
    }
    check_large(level, Y5_FLOAT64); /* the fewest elements */
    check_queue(level);
}
