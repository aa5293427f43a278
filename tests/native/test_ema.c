/* core/ema.c at one level against a scalar oracle that shares no code with it: every pair of types,
 * every size and every kind of strides. */
#include "core/ops.h"
#include "support.h"
#include "test_core.h"

#include <math.h>
#include <string.h>

#define SIZES 99 /* 0 ... 97 elements, and one of many tasks */
#define BIG 100003

/* The three separately rounded operations. Scalars are rounded to float32 unless the tensor they
 * meet is float64; float64 sums reach the 16-bit types by way of float32, as in torch. */
static double
expected_element(double average, y5_dtype to, double source, y5_dtype from, double decay)
{
    double rest = 1.0 - decay;
    double kept =
        to == Y5_FLOAT64 ? average * decay : round_to((double)((float)average * (float)decay), to);
    double added =
        from == Y5_FLOAT64 ? source * rest : round_to((double)((float)source * (float)rest), from);
    if (to == Y5_FLOAT64) {
        return kept + added;
    }
    bool wide = from == Y5_FLOAT64;
    return (double)(wide ? (float)(kept + added) : (float)kept + (float)added);
}

static void
expect(void *average, const void *source, int64_t count, y5_dtype to, y5_dtype from, double decay)
{
    for (int64_t i = 0; i < count; i++) {
        double value = get_element(average, i, to);
        double other = get_element(source, i, from);
        set_element(average, i, to, expected_element(value, to, other, from, decay));
    }
}

static void *
copy_of(const void *data, int64_t bytes)
{
    void *copy = allocate(bytes);
    memcpy(copy, data, (size_t)bytes);
    return copy;
}

/* One update, and what it is to result in. Every array has a block of its own that starts up to
 * three elements in, and nothing behind it. */
typedef struct {
    y5_ema_pair pairs[SIZES];
    void *initial[SIZES];
    void *expected[SIZES];
} update;

static void
prepare(update *to_do, y5_dtype to, y5_dtype from, double decay)
{
    int64_t bytes[2] = {(int64_t)y5_dtype_bytes(to), (int64_t)y5_dtype_bytes(from)};
    int64_t most = !brief ? BIG : to == from ? 33333 : 777;
    for (int64_t i = 0; i < SIZES; i++) {
        int64_t count = i < SIZES - 1 ? i : most;
        char *arrays[2];
        for (int side = 0; side < 2; side++) {
            int64_t offset = random_between(0, 3) * bytes[side];
            arrays[side] = (char *)allocate(offset + count * bytes[side]) + offset;
            fill(arrays[side], count, side == 0 ? to : from);
        }
        to_do->pairs[i] = (y5_ema_pair){arrays[0], arrays[1], count, to, from};
        to_do->initial[i] = copy_of(arrays[0], count * bytes[0]);
        to_do->expected[i] = copy_of(arrays[0], count * bytes[0]);
        expect(to_do->expected[i], arrays[1], count, to, from, decay);
    }
}

static void
check_type_pair(y5_level level, y5_dtype to, y5_dtype from)
{
    static update to_do;
    int64_t bytes = (int64_t)y5_dtype_bytes(to);
    prepare(&to_do, to, from, 0.9987);
    bool follows = to == from && (to == Y5_FLOAT32 || to == Y5_FLOAT64);
    CHECK(y5_ema_follows_torch(to_do.pairs, NULL, SIZES) == follows, "dtypes %d and %d", to, from);
    for (int32_t round = 0; round < 2 + follows; round++) {
        int32_t threads = round == 0 ? 1 : 3;
        pool_set_threads(threads);
        y5_run run = {level, {pool_run, threads}};
        if (round < 2) {
            y5_ema_update(&run, to_do.pairs, NULL, SIZES, 0.9987);
        } else { /* the same where all threads are alike */
            y5_ema_update_as_torch(&run, to_do.pairs, SIZES, 0.9987);
        }
        for (int64_t i = 0; i < SIZES; i++) {
            int64_t count = to_do.pairs[i].numel;
            check_same(to_do.pairs[i].average, to_do.expected[i], count, to, "contiguous");
            memcpy(to_do.pairs[i].average, to_do.initial[i], (size_t)(count * bytes));
        }
    }
    free_all();
}

/* One pair on the calling thread. */
static void
update_one(y5_level level, const y5_ema_pair *pair, double decay)
{
    y5_run run = {level, {NULL, 1}};
    y5_ema_update(&run, pair, NULL, 1, decay);
}

static void
check_decays(y5_level level)
{
    static const double decays[] = {0,    1,        0.5,       -0.5, 1e-50,
                                    1e39, INFINITY, -INFINITY, NAN,  0.99989999999999};
    enum { COUNT = 203 };
    for (size_t d = 0; d < sizeof(decays) / sizeof(decays[0]); d++) {
        for (int type = 0; type < Y5_FLOATING_COUNT * Y5_FLOATING_COUNT; type++) {
            y5_dtype to = (y5_dtype)(type % Y5_FLOATING_COUNT);
            y5_dtype from = (y5_dtype)(type / Y5_FLOATING_COUNT);
            double average[COUNT];
            double source[COUNT];
            double expected[COUNT];
            fill(average, COUNT, to);
            fill(source, COUNT, from);
            memcpy(expected, average, sizeof(average));
            expect(expected, source, COUNT, to, from, decays[d]);
            y5_ema_pair pair = {average, source, COUNT, to, from};
            update_one(level, &pair, decays[d]);
            check_same(average, expected, COUNT, to, "decay");
        }
    }
}

/* All patterns of a 16-bit type on one side, random values of it on the other. */
static void
check_every_half(y5_level level, y5_dtype dtype)
{
    enum { COUNT = 65536 };
    static uint16_t sides[2][COUNT];
    static uint16_t expected[COUNT];
    for (int patterned = 0; patterned < 2; patterned++) {
        fill(sides[1 - patterned], COUNT, dtype);
        for (int i = 0; i < COUNT; i++) {
            sides[patterned][i] = (uint16_t)i;
        }
        memcpy(expected, sides[0], sizeof(expected));
        expect(expected, sides[1], COUNT, dtype, dtype, 0.9);
        y5_ema_pair pair = {sides[0], sides[1], COUNT, dtype, dtype};
        update_one(level, &pair, 0.9);
        check_same(sides[0], expected, COUNT, dtype, "every pattern");
    }
}

/* Strides that keep the elements apart: dimensions in a random order, with or without gaps, some
 * of them backwards. */
static void
give_strides(y5_tensor *tensor)
{
    int64_t step = 1;
    int32_t first = (int32_t)random_between(0, 3);
    for (int32_t n = 0; n < tensor->ndim; n++) {
        int32_t i = (first + n * 3) % tensor->ndim;  /* a rotation of the dimensions ... */
        i = tensor->ndim == 3 ? (first + n) % 3 : i; /* ... by a step prime to their number */
        step *= random_between(0, 3) == 0 ? random_between(2, 3) : 1;
        tensor->strides[i] = random_between(0, 4) == 0 ? -step : step;
        step *= tensor->shape[i];
    }
}

/* Random layouts of one shape for both sides, the memory they need, and the update done by hand. */
static void
check_layout(y5_level level, y5_tensor *average, int32_t threads)
{
    y5_tensor source = *average;
    average->dtype = (y5_dtype)random_between(0, Y5_FLOATING_COUNT - 1);
    source.dtype = (y5_dtype)random_between(0, Y5_FLOATING_COUNT - 1);
    give_strides(average);
    give_strides(&source);
    if (source.ndim > 0 && random_between(0, 3) == 0) {
        source.strides[random_between(0, source.ndim - 1)] = random_between(-2, 2);
    }
    y5_tensor *sides[2] = {average, &source};
    int64_t *offsets[2];
    int64_t spans[2];
    void *blocks[2];
    for (int side = 0; side < 2; side++) {
        y5_tensor *tensor = sides[side];
        int64_t low = 0;
        int64_t high = 0;
        int64_t bytes = (int64_t)y5_dtype_bytes(tensor->dtype);
        offsets[side] = all_offsets(tensor, &low, &high);
        spans[side] = high - low + 1;
        blocks[side] = allocate(spans[side] * bytes);
        fill(blocks[side], spans[side], tensor->dtype);
        tensor->data = (char *)blocks[side] - low * bytes;
        for (int64_t i = 0; i < tensor->numel; i++) {
            offsets[side][i] -= low;
        }
    }
    void *expected = copy_of(blocks[0], spans[0] * (int64_t)y5_dtype_bytes(average->dtype));
    for (int64_t i = 0; i < average->numel; i++) {
        double value = get_element(expected, offsets[0][i], average->dtype);
        double other = get_element(blocks[1], offsets[1][i], source.dtype);
        value = expected_element(value, average->dtype, other, source.dtype, 0.93);
        set_element(expected, offsets[0][i], average->dtype, value);
    }
    y5_ema_layout layout;
    CHECK(y5_ema_layout_of(&layout, average, &source), "elements that lie apart were refused");
    const y5_ema_layout *layouts[] = {&layout};
    y5_ema_pair pair = {average->data, source.data, average->numel, average->dtype, source.dtype};
    CHECK(!y5_ema_follows_torch(&pair, layouts, 1), "a layout");
    y5_run run = {level, {pool_run, threads}};
    pool_set_threads(threads);
    y5_ema_update(&run, &pair, layouts, 1, 0.93);
    /* The whole block: the gaps are to stay as they were. */
    check_same(blocks[0], expected, spans[0], average->dtype, "strided");
    free_all();
}

static void
check_layouts(y5_level level)
{
    for (int32_t round = 0; round < (brief ? 150 : 1500); round++) {
        y5_tensor average = random_shape(4, 1, 7);
        check_layout(level, &average, 1);
    }
    static const int64_t rows[] = {255, 256, 257, 511, 513, 1000}; /* around the kernel's block */
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (int32_t round = 0; round < 8; round++) {
            y5_tensor average = {.numel = rows[i] * 3, .ndim = 2, .shape = {3, rows[i]}};
            check_layout(level, &average, 1);
        }
    }
    for (int32_t round = 0; round < (brief ? 1 : 4); round++) { /* more than one task */
        y5_tensor average = {.numel = 70070, .ndim = 4, .shape = {7, 10, 77, 13}};
        check_layout(level, &average, 2);
    }
}

/* A layout may be refused for no reason, but never accepted where two indices share an element. */
static void
check_shared_elements(void)
{
    int32_t refused = 0;
    for (int32_t round = 0; round < (brief ? 2000 : 20000); round++) {
        y5_tensor average = random_shape(3, 1, 4);
        for (int32_t i = 0; i < average.ndim; i++) {
            average.strides[i] = random_between(-6, 13);
        }
        int64_t low = 0;
        int64_t high = 0;
        int64_t *offsets = all_offsets(&average, &low, &high);
        bool *seen = calloc((size_t)(high - low + 1), sizeof(bool));
        bool shared = false;
        for (int64_t i = 0; i < average.numel; i++) {
            shared = shared || seen[offsets[i] - low];
            seen[offsets[i] - low] = true;
        }
        y5_ema_layout layout;
        CHECK(!y5_ema_layout_of(&layout, &average, &average) || !shared, "round %d", round);
        refused += shared;
        free(seen);
        free_all();
    }
    CHECK(refused > 100, "only %d shared elements", refused);
}

void
test_ema(y5_level level)
{
    for (int to = 0; to < Y5_FLOATING_COUNT; to++) {
        for (int from = 0; from < Y5_FLOATING_COUNT; from++) {
            check_type_pair(level, (y5_dtype)to, (y5_dtype)from);
        }
    }
    check_decays(level);
    check_every_half(level, Y5_FLOAT16);
    check_every_half(level, Y5_BFLOAT16);
    check_layouts(level);
    check_shared_elements();
}
