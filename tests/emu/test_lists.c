/* The operations on lists of tensors, emulated, against the core's: random lists of every type,
 * size and alignment; and the number of launches for lists of any length. */
#include "test_emu.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#define MANY 2600 /* items: more than two tables hold */
#define SOME 9

static const y5_dtype floats[] = {Y5_FLOAT32, Y5_FLOAT64, Y5_FLOAT16, Y5_BFLOAT16};

/* Mostly one type for all, as in models. */
static y5_dtype
random_float(int64_t trial)
{
    return floats[trial % 5 < 4 ? trial % 5 : random_between(0, 3)];
}

static void
ema_trial(int64_t trial)
{
    y5_ema_pair pairs[SOME];
    y5_ema_pair expected[SOME];
    int64_t count = random_between(1, SOME);
    for (int64_t i = 0; i < count; i++) {
        y5_dtype to = random_float(trial);
        y5_dtype from = trial % 3 == 0 ? floats[random_between(0, 3)] : to;
        int64_t numel = random_numel();
        array average = array_of(numel, to);
        pairs[i] = (y5_ema_pair){average.data, array_of(numel, from).data, numel, to, from};
        expected[i] = pairs[i];
        expected[i].average = copy_of(&average).data;
    }
    double decay = 0.9999 * (double)random_between(0, 1000) / 1000;
    CALL(ema_update, &here, pairs, count, decay);
    y5_ema_update(&core, expected, NULL, count, decay);
    expect_launches(1);
    for (int64_t i = 0; i < count; i++) {
        check_same(pairs[i].average, expected[i].average, pairs[i].numel, pairs[i].average_dtype,
                   "ema");
    }
    free_all();
}

/* `count` pairs of 3 elements: what they become, and in how many launches. */
static void
ema_launches(int64_t count, int64_t launches, y5_dtype to, y5_dtype from)
{
    static y5_ema_pair pairs[MANY];
    static y5_ema_pair expected[MANY];
    array averages = array_of(count * 3, to);
    array copies = copy_of(&averages);
    array sources = array_of(count * 3, from);
    int64_t to_bytes = 3 * (int64_t)y5_dtype_bytes(to);
    int64_t from_bytes = 3 * (int64_t)y5_dtype_bytes(from);
    for (int64_t i = 0; i < count; i++) {
        char *source = sources.data + i * from_bytes;
        pairs[i] = (y5_ema_pair){averages.data + i * to_bytes, source, 3, to, from};
        expected[i] = (y5_ema_pair){copies.data + i * to_bytes, source, 3, to, from};
    }
    shake_machine();
    CALL(ema_update, &here, pairs, count, 0.9);
    expect_launches(launches);
    y5_ema_update(&core, expected, NULL, count, 0.9);
    check_same(averages.data, copies.data, count * 3, to, "ema, many");
    free_all();
}

void
test_ema(void)
{
    for (int64_t trial = 0; trial < 60; trial++) {
        shake_machine();
        ema_trial(trial);
    }
    /* Floating entries of YOLOv5 n and s, m, l, x: one launch each. */
    static const int64_t models[] = {1, 2, 141, 142, 292, 402, 512, 622, 1165};
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        ema_launches(models[i], 1, Y5_FLOAT32, Y5_FLOAT32);
    }
    for (int32_t to = 0; to < Y5_FLOATING_COUNT; to++) {
        ema_launches(1166, 2, floats[to], floats[to]);
        ema_launches(2500, 3, floats[to], floats[random_between(0, 3)]);
    }
}

/* Bytes, of which many elements are zero under one mask or another. */
static void
fill_bytes(unsigned char *data, int64_t bytes, int64_t element_bytes)
{
    for (int64_t i = 0; i < bytes; i++) {
        data[i] = (unsigned char)random_bits();
    }
    static const unsigned char few[] = {0, 0, 0x80, 1, 0x7f};
    for (int64_t i = 0; i < bytes / element_bytes; i++) {
        if (random_between(0, 2) > 0) {
            memset(data + i * element_bytes, 0, (size_t)element_bytes);
            data[(i + 1) * element_bytes - 1] = few[random_between(0, 4)];
        }
    }
}

static void
sparsity_trial(bool each)
{
    y5_elements items[SOME];
    _Atomic int64_t expected[SOME];
    int64_t count = random_between(1, SOME);
    for (int64_t i = 0; i < count; i++) {
        y5_dtype dtype = (y5_dtype)random_between(0, Y5_DTYPE_COUNT - 1);
        int64_t numel = random_numel() * (dtype >= Y5_FLOAT8 ? 4 : 1);
        int64_t bytes = (int64_t)y5_dtype_bytes(dtype);
        int64_t skipped = random_between(0, 1) * random_between(0, 3) * bytes;
        unsigned char *data = (unsigned char *)allocate(skipped + numel * bytes) + skipped;
        fill_bytes(data, numel * bytes, bytes);
        items[i] = (y5_elements){data, numel, dtype};
        atomic_init(&expected[i], 0);
    }
    int64_t zeros[SOME];
    memset(zeros, 0xa5, sizeof(zeros)); /* cleared by the call */
    CALL(sparsity_count, &here, items, count, zeros, each ? count : 1);
    y5_sparsity_count(&core, items, count, expected);
    expect_launches(1);
    int64_t total = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t wanted = atomic_load(&expected[i]);
        CHECK(!each || zeros[i] == wanted, "item %d of dtype %d: %d, not %d", (int)i,
              items[i].dtype, (int)zeros[i], (int)wanted);
        total += wanted;
    }
    CHECK(each || zeros[0] == total, "%d, not %d", (int)zeros[0], (int)total);
    free_all();
}

/* Sums that round on the way, which another order would end elsewhere. */
static void
sum_trial(int64_t count)
{
    static int64_t zeros[MANY];
    float sum_float32 = 0;
    double sum_float64 = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t bits = random_between(1, 58); /* odd numbers, most of which a float rounds */
        zeros[i] = random_between(0, (int64_t)1 << bits) | 1;
        sum_float32 += (float)zeros[i];
        sum_float64 += (double)zeros[i];
    }
    struct {
        float one, behind;
    } found_float32 = {-7, -7};
    double found_float64 = -7;
    CALL(sparsity_sum, &here, zeros, count, Y5_FLOAT32, &found_float32);
    CALL(sparsity_sum, &here, zeros, count, Y5_FLOAT64, &found_float64);
    CHECK(memcmp(&found_float32.one, &sum_float32, sizeof(sum_float32)) == 0,
          "sum of %d in float32: %a, not %a", (int)count, (double)found_float32.one,
          (double)sum_float32);
    CHECK(memcmp(&found_float64, &sum_float64, sizeof(sum_float64)) == 0,
          "sum of %d in float64: %a, not %a", (int)count, found_float64, sum_float64);
    CHECK(found_float32.behind == -7, "wrote on");
    expect_launches(2);
}

void
test_sparsity(void)
{
    static const int64_t counts[] = {0, 1, 2, 255, 256, 257, 375, MANY};
    for (int i = 0; i < 8; i++) {
        shake_machine();
        sum_trial(counts[i]);
    }
    for (int64_t trial = 0; trial < 30; trial++) {
        shake_machine();
        sparsity_trial(trial % 2 == 0);
    }
    static y5_elements items[MANY];
    static float ones[MANY]; /* zeros, in fact */
    for (int64_t i = 0; i < MANY; i++) {
        items[i] = (y5_elements){&ones[i], 1, Y5_FLOAT32};
    }
    static const int64_t models[][2] = {{177, 1}, {375, 1}, {906, 1}, {907, 2}, {MANY, 3}};
    for (int i = 0; i < 5; i++) {
        int64_t zeros = -1;
        shake_machine();
        CALL(sparsity_count, &here, items, models[i][0], &zeros, 1);
        CHECK(zeros == models[i][0], "%d of %d", (int)zeros, (int)models[i][0]);
        expect_launches(models[i][1]);
    }
}

/* A convolution and its batch norm, what the library makes of it and what the core does. */
typedef struct {
    array inputs[6]; /* weight, bias, gamma, beta, mean, variance */
    array roots;
    array fused[2];
    array expected[2];
} fuse_memory;

static void
make_fuse_pair(fuse_memory *memory, y5_fuse_pair *pair, y5_fuse_pair *twin, y5_dtype dtype,
               y5_dtype fused_dtype, int64_t channels, int64_t row)
{
    y5_dtype core_dtype = fused_dtype == Y5_FLOAT64 ? Y5_FLOAT64 : Y5_FLOAT32;
    /* In 16 bits torch rounds epsilon first on the CPU and not on a GPU: a number that is exact. */
    double epsilon = dtype == Y5_FLOAT32 || dtype == Y5_FLOAT64 ? 1e-3 : 0x1p-10;
    for (int i = 0; i < 6; i++) {
        memory->inputs[i] = array_of(i == 0 ? channels * row : channels, dtype);
    }
    for (int64_t i = 0; i < channels; i++) { /* no negative variances */
        double variance = get_element(memory->inputs[5].data, i, dtype);
        set_element(memory->inputs[5].data, i, dtype, fabs(variance));
    }
    memory->roots = array_of(channels, dtype);
    for (int i = 0; i < 2; i++) {
        int64_t numel = i == 0 ? channels * row : channels;
        memory->fused[i] = array_of(numel, fused_dtype);
        memory->expected[i] = array_of(numel, core_dtype);
    }
    const array *in = memory->inputs;
    const void *bias = random_between(0, 1) ? in[1].data : NULL;
    *pair = (y5_fuse_pair){in[0].data,
                           bias,
                           in[2].data,
                           in[3].data,
                           in[4].data,
                           in[5].data,
                           memory->fused[0].data,
                           memory->fused[1].data,
                           epsilon,
                           channels,
                           row,
                           dtype,
                           fused_dtype};
    *twin = *pair;
    twin->fused_weight = memory->expected[0].data;
    twin->fused_bias = memory->expected[1].data;
    twin->fused_dtype = core_dtype;
    y5_fuse_variances(twin, memory->roots.data);
    for (int64_t i = 0; i < channels; i++) {
        double sum = get_element(memory->roots.data, i, dtype);
        double root = dtype == Y5_FLOAT64 ? sqrt(sum) : (double)sqrtf((float)sum);
        set_element(memory->roots.data, i, dtype, root);
    }
    twin->variance = memory->roots.data;
}

static void
fuse_trial(int64_t trial)
{
    static const int64_t rows[] = {1, 2, 3, 9, 27, 64, 576, 2047, 2048, 2049, 4095, 4096, 5000};
    y5_fuse_pair pairs[SOME];
    y5_fuse_pair twins[SOME];
    fuse_memory memory[SOME];
    int64_t count = random_between(1, SOME);
    for (int64_t i = 0; i < count; i++) {
        y5_dtype dtype = random_float(trial);
        y5_dtype fused = random_between(0, 1) ? Y5_FLOAT32 : dtype;
        int64_t row = rows[random_between(0, 12)];
        int64_t channels = random_between(1, row > 100 ? 5 : 200);
        make_fuse_pair(&memory[i], &pairs[i], &twins[i], dtype, fused, channels, row);
    }
    int32_t doubtful[SOME];
    _Atomic int32_t expected[SOME] = {0};
    memset(doubtful, 0xa5, sizeof(doubtful));
    CALL(fuse, &here, pairs, count, doubtful);
    y5_fuse(&core, twins, NULL, count, expected);
    expect_launches(1);
    for (int64_t i = 0; i < count; i++) {
        for (int part = 0; part < 2; part++) {
            int64_t numel = part == 0 ? pairs[i].rows * pairs[i].columns : pairs[i].rows;
            y5_dtype got = pairs[i].fused_dtype;
            array wanted = array_of(numel, got);
            for (int64_t j = 0; j < numel; j++) {
                double value = get_element(memory[i].expected[part].data, j, twins[i].fused_dtype);
                set_element(wanted.data, j, got, value);
            }
            check_same(memory[i].fused[part].data, wanted.data, numel, got,
                       part == 0 ? "fused weight" : "fused bias");
        }
        /* In bfloat16 the core also doubts subnormal numbers, which CPUs' own products drop. */
        bool more = pairs[i].dtype == Y5_BFLOAT16 && atomic_load(&expected[i]) == 1;
        CHECK(doubtful[i] == atomic_load(&expected[i]) || (doubtful[i] == 0 && more),
              "pair %d of dtype %d: %d", (int)i, pairs[i].dtype, doubtful[i]);
    }
    free_all();
}

/* A pair that is as good as can be, and one with a weight whose product vanishes. */
static void
fuse_vanishing(y5_dtype dtype)
{
    static const double least[] = {0x1p-149, 0x1p-1074, 0x1p-24, 0x1p-133};
    for (int32_t vanishing = 0; vanishing < 2; vanishing++) {
        fuse_memory memory;
        y5_fuse_pair pair;
        y5_fuse_pair twin;
        int32_t doubtful = 7;
        make_fuse_pair(&memory, &pair, &twin, dtype, dtype, 2, 3);
        for (int i = 0; i < 6; i++) {
            for (int64_t at = 0; at < (i == 0 ? 6 : 2); at++) {
                set_element(memory.inputs[i].data, at, dtype, 0.25);
            }
        }
        if (vanishing) {
            set_element(memory.inputs[0].data, 4, dtype, least[dtype]);
        }
        CALL(fuse, &here, &pair, 1, &doubtful);
        CHECK(doubtful == vanishing, "pair of dtype %d: %d", (int)dtype, doubtful);
        free_all();
    }
}

/* As many pairs as YOLOv5n and x have, and more than a table holds. */
static void
fuse_launches(int64_t count, int64_t launches)
{
    static y5_fuse_pair pairs[MANY];
    static float fused[MANY][2];
    static const float one = 1.0F;
    for (int64_t i = 0; i < count; i++) {
        pairs[i] =
            (y5_fuse_pair){&one,         &one, &one, &one, &one,       &one,      &fused[i][0],
                           &fused[i][1], 3.0,  1,    1,    Y5_FLOAT32, Y5_FLOAT32};
    }
    shake_machine();
    CALL(fuse, &here, pairs, count, NULL);
    expect_launches(launches);
    for (int64_t i = 0; i < count; i++) { /* 1 / sqrt(1 + 3); that + (1 - that) */
        CHECK(fused[i][0] == 0.5F && fused[i][1] == 1.0F, "pair %d", (int)i);
    }
}

void
test_fuse(void)
{
    for (int32_t dtype = 0; dtype < Y5_FLOATING_COUNT; dtype++) {
        shake_machine();
        fuse_vanishing((y5_dtype)dtype);
    }
    for (int64_t trial = 0; trial < 50; trial++) {
        shake_machine();
        fuse_trial(trial);
    }
    static const int64_t models[][2] = {{1, 1}, {57, 1}, {123, 1}, {302, 1}, {303, 2}};
    for (int i = 0; i < 5; i++) {
        fuse_launches(models[i][0], models[i][1]);
    }
}

/* Few different magnitudes, so that many are equal at the threshold. */
static void
make_ties(void *data, int64_t numel, y5_dtype dtype)
{
    int64_t kinds = random_between(1, 6);
    for (int64_t i = 0; i < numel; i++) {
        double magnitude = (double)random_between(0, kinds) * 0.25;
        set_element(data, i, dtype, random_between(0, 1) ? magnitude : -magnitude);
    }
}

static void
prune_trial(int64_t trial)
{
    y5_prune_layer layers[SOME];
    y5_prune_layer expected[SOME];
    int64_t count = random_between(1, SOME);
    int64_t digits = 0;
    for (int64_t i = 0; i < count; i++) {
        static const int64_t digits_of[] = {3, 6, 2, 2};
        y5_dtype dtype = random_float(trial);
        int64_t numel = random_numel();
        int64_t some[] = {0, numel, 1, numel - 1, random_between(0, numel)};
        int64_t removed = some[random_between(0, 4)];
        char *weights = array_of(numel, dtype).data;
        char *pruned = array_of(numel, dtype).data;
        layers[i] = (y5_prune_layer){weights, pruned, numel, removed, dtype, false};
        expected[i] = layers[i];
        expected[i].pruned = array_of(numel, dtype).data;
        if (random_between(0, 1)) {
            make_ties(weights, numel, dtype);
        }
        if (removed > 0 && removed < numel && digits_of[dtype] > digits) {
            digits = digits_of[dtype];
        }
    }
    int64_t bytes = api->prune_workspace_bytes(layers, count);
    CALL(prune, &here, layers, count, workspace_of(bytes), bytes);
    y5_prune(&core, expected, count, false);
    expect_launches(digits > 0 ? digits + 2 : 1);
    for (int64_t i = 0; i < count; i++) {
        check_same(layers[i].pruned, expected[i].pruned, layers[i].numel, layers[i].dtype,
                   "pruned");
    }
    free_all();
}

/* As many layers as YOLOv5n and x have, and more than a table holds. */
static void
prune_launches(int64_t count, int64_t launches)
{
    static y5_prune_layer layers[MANY];
    static float pruned[MANY][4];
    static const float weights[4] = {3.0F, -1.0F, 1.0F, -2.0F};
    for (int64_t i = 0; i < count; i++) {
        layers[i] = (y5_prune_layer){weights, pruned[i], 4, i % 57 == 0, Y5_FLOAT32, false};
    }
    int64_t bytes = api->prune_workspace_bytes(layers, count);
    shake_machine();
    CALL(prune, &here, layers, count, workspace_of(bytes), bytes);
    expect_launches(launches);
    for (int64_t i = 0; i < count; i++) {
        CHECK(pruned[i][0] == 3.0F && pruned[i][1] == (i % 57 == 0 ? 0.0F : -1.0F) &&
                  pruned[i][2] == 1.0F && pruned[i][3] == -2.0F,
              "layer %d", (int)i);
    }
    free_all();
}

void
test_prune(void)
{
    for (int64_t trial = 0; trial < 30; trial++) {
        shake_machine();
        prune_trial(trial);
    }
    prune_launches(60, 5);
    prune_launches(126, 5);
    prune_launches(742, 10);
}
