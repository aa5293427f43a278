/* core/fuse.c at one level against scalars rounded after each operation: every type, rows of every
 * length, several threads, results past the caches, and what has to be called doubtful. */
#include "core/ops.h"
#include "support.h"
#include "test_core.h"

#include <math.h>
#include <string.h>

enum { WEIGHT, BIAS, GAMMA, BETA, MEAN, VARIANCE, FUSED, INPUTS = FUSED };

/* One pair with memory of its own and nothing behind it. */
typedef struct {
    y5_fuse_pair pair;
    const y5_tensor *layout; /* or NULL */
    void *roots;
    _Atomic int32_t doubtful;
    void *inputs[INPUTS];
} problem;

/* Finite numbers of a trained layer's magnitude; variances are positive. */
static void
prepare(problem *made, y5_dtype dtype, y5_dtype fused_dtype, int64_t rows, int64_t columns)
{
    int64_t bytes = (int64_t)y5_dtype_bytes(dtype);
    int64_t fused_bytes = (int64_t)y5_dtype_bytes(fused_dtype);
    for (int i = 0; i < INPUTS; i++) {
        int64_t count = i == WEIGHT ? rows * columns : rows;
        made->inputs[i] = allocate(count * bytes);
        for (int64_t at = 0; at < count; at++) {
            double value = (double)random_between(-2000, 2000) / 512.0;
            value = i == VARIANCE ? fabs(value) + 0.25 : value;
            set_element(made->inputs[i], at, dtype, value);
        }
    }
    void *fused_weight = allocate(rows * columns * fused_bytes);
    void *fused_bias = allocate(rows * fused_bytes);
    made->layout = NULL;
    made->roots = dtype == fused_dtype ? fused_bias : allocate(rows * bytes);
    made->doubtful = 0;
    made->pair = (y5_fuse_pair){
        .weight = made->inputs[WEIGHT],
        .bias = made->inputs[BIAS],
        .gamma = made->inputs[GAMMA],
        .beta = made->inputs[BETA],
        .mean = made->inputs[MEAN],
        .variance = made->inputs[VARIANCE],
        .fused_weight = fused_weight,
        .fused_bias = fused_bias,
        .rows = rows,
        .columns = columns,
        .epsilon = 0.001,
        .dtype = dtype,
        .fused_dtype = fused_dtype,
    };
}

/* The root that stands for torch's: correctly rounded. */
static double
root_of(const problem *made, int64_t row)
{
    y5_dtype dtype = made->pair.dtype;
    double eps = dtype == Y5_FLOAT64 ? made->pair.epsilon : (double)(float)made->pair.epsilon;
    double variance = get_element(made->inputs[VARIANCE], row, dtype);
    return round_to(sqrt(round_to(variance + eps, dtype)), dtype);
}

static void
check_value(const void *data, int64_t index, y5_dtype dtype, double expected, const char *what)
{
    double got = get_element(data, index, dtype);
    double wanted = round_to(expected, dtype);
    CHECK(got == wanted && signbit(got) == signbit(wanted), "%s %d: %a, not %a", what, (int)index,
          got, wanted);
}

static void
check_results(const problem *made)
{
    const y5_fuse_pair *pair = &made->pair;
    y5_dtype dtype = pair->dtype;
    for (int64_t row = 0; row < pair->rows; row++) {
        double root = root_of(made, row);
        double gamma = get_element(made->inputs[GAMMA], row, dtype);
        double scale = round_to(gamma / root, dtype);
        double bias = pair->bias != NULL ? get_element(pair->bias, row, dtype) : 0.0;
        double product = round_to(scale * bias, dtype);
        double moved = round_to(gamma * get_element(made->inputs[MEAN], row, dtype), dtype);
        moved = round_to(moved / root, dtype);
        double shift = round_to(get_element(made->inputs[BETA], row, dtype) - moved, dtype);
        double sum = round_to((product + 0.0) + shift, dtype);
        check_value(pair->fused_bias, row, pair->fused_dtype, sum, "bias");
        for (int64_t i = row * pair->columns; i < (row + 1) * pair->columns; i++) {
            double weight = round_to(scale * get_element(pair->weight, i, dtype), dtype);
            check_value(pair->fused_weight, i, pair->fused_dtype, weight + 0.0, "weight");
        }
    }
}

/* Runs one pair to the end, with the roots taken in between. */
static void
run_pair(y5_level level, problem *made, int32_t threads)
{
    y5_fuse_pair pair = made->pair;
    y5_fuse_variances(&pair, made->roots);
    for (int64_t row = 0; row < pair.rows; row++) {
        set_element(made->roots, row, pair.dtype, root_of(made, row));
    }
    pair.variance = made->roots;
    pool_set_threads(threads);
    y5_run run = {level, {pool_run, threads}};
    y5_fuse(&run, &pair, made->layout, 1, &made->doubtful);
}

static void
check_types(y5_level level)
{
    static const int64_t lengths[] = {1, 2, 3, 7, 15, 16, 17, 31, 64, 147};
    for (int type = 0; type < 2 * Y5_FLOATING_COUNT; type++) {
        for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
            problem made;
            y5_dtype fused = type % 2 == 0 ? Y5_FLOAT32 : Y5_FLOAT64;
            prepare(&made, (y5_dtype)(type / 2), fused, random_between(1, 150), lengths[i]);
            made.pair.bias = random_between(0, 1) ? made.pair.bias : NULL;
            run_pair(level, &made, 1);
            CHECK(!made.doubtful, "type %d, rows of %d", type, (int)lengths[i]);
            check_results(&made);
            free_all();
        }
    }
}

/* Many tasks; from 2^18 elements on the results are streamed. */
static void
check_threads(y5_level level)
{
    static const int64_t columns[] = {1031, 2304};
    for (size_t i = 0; i < 2; i++) {
        for (int32_t threads = 1; threads <= 3; threads += brief ? 2 : 1) {
            problem made;
            prepare(&made, Y5_FLOAT32, Y5_FLOAT32, 261, columns[i]);
            run_pair(level, &made, threads);
            CHECK(!made.doubtful, "%d threads", threads);
            check_results(&made);
            free_all();
        }
    }
}

/* A weight of four dimensions in any order of them. */
static void
check_layouts(y5_level level)
{
    static const y5_tensor layouts[] = {
        {.ndim = 4, .shape = {8, 5, 3, 4}, .strides = {60, 1, 20, 5}}, /* channels last */
        {.ndim = 4, .shape = {8, 5, 3, 4}, .strides = {1, 8, 40, 120}},
    };
    for (size_t i = 0; i < 2; i++) {
        problem made;
        problem plain;
        prepare(&made, Y5_FLOAT32, Y5_FLOAT32, 8, 60);
        plain = made;
        plain.pair.fused_weight = allocate(480 * 4);
        plain.pair.fused_bias = plain.roots = allocate(8 * 4);
        float *ordered = allocate(480 * 4);
        for (int64_t at = 0; at < 480; at++) {
            int64_t column = at % 60;
            int64_t from = at / 60 * layouts[i].strides[0] + column % 4 * layouts[i].strides[3] +
                           column / 4 % 3 * layouts[i].strides[2] +
                           column / 12 * layouts[i].strides[1];
            ordered[at] = ((const float *)made.inputs[WEIGHT])[from];
        }
        plain.pair.weight = ordered;
        made.layout = &layouts[i];
        run_pair(level, &made, 1);
        run_pair(level, &plain, 1);
        check_results(&plain);
        CHECK(memcmp(made.pair.fused_weight, plain.pair.fused_weight, 480 * 4) == 0, "layout");
        CHECK(memcmp(made.pair.fused_bias, plain.pair.fused_bias, 8 * 4) == 0, "layout's bias");
        free_all();
    }
}

/* One number that makes a pair doubtful, in the first, a middle and the last place. */
static void
check_doubts(y5_level level)
{
    static const double numbers[] = {INFINITY, -INFINITY, NAN};
    for (int32_t round = 0; round < 18; round++) {
        problem made;
        int64_t columns = round % 2 == 0 ? 37 : 2100;
        prepare(&made, Y5_FLOAT32, Y5_FLOAT32, 130, columns);
        int64_t count = round % 3 == 2 ? 130 : 130 * columns;
        static const int64_t parts[] = {0, 1, 2};
        int64_t at = parts[round / 6] * (count - 1) / 2;
        set_element(made.inputs[round % 3 == 2 ? BIAS : WEIGHT], at, Y5_FLOAT32,
                    numbers[round % 3]);
        run_pair(level, &made, 1);
        CHECK(made.doubtful, "round %d", round);
        free_all();
    }
}

/* What a matrix product of one factor and zeros may do otherwise: by the words of ops.h. */
static bool
may_differ(double scale, double factor, y5_dtype dtype)
{
    double product = round_to(scale * factor, dtype);
    if (isnan(factor) || isinf(factor)) {
        return true;
    }
    bool finite = !isnan(scale) && !isinf(scale) && scale != 0 && factor != 0;
    bool subnormal = fabs(product) < 0x1p-126 || fabs(factor) < 0x1p-126 || fabs(scale) < 0x1p-126;
    return finite && (product == 0 || (dtype == Y5_BFLOAT16 && subnormal));
}

static bool
row_may_differ(const problem *made, int64_t row)
{
    const y5_fuse_pair *pair = &made->pair;
    double gamma = get_element(made->inputs[GAMMA], row, pair->dtype);
    double scale = round_to(gamma / root_of(made, row), pair->dtype);
    bool found = may_differ(scale, get_element(pair->bias, row, pair->dtype), pair->dtype);
    for (int64_t i = row * pair->columns; i < (row + 1) * pair->columns; i++) {
        found |= may_differ(scale, get_element(pair->weight, i, pair->dtype), pair->dtype);
    }
    return found;
}

/* Numbers at the borders of a type, as a channel's gamma and as its bias or one of its weights. */
static void
check_borders(y5_level level, y5_dtype dtype)
{
    static const int least[] = {
        [Y5_FLOAT32] = -149, [Y5_FLOAT64] = -1074, [Y5_FLOAT16] = -24, [Y5_BFLOAT16] = -133};
    static const int normal[] = {
        [Y5_FLOAT32] = -126, [Y5_FLOAT64] = -1022, [Y5_FLOAT16] = -14, [Y5_BFLOAT16] = -126};
    const double numbers[] = {0,
                              -0.0,
                              1,
                              ldexp(1, least[dtype]),
                              -ldexp(3, least[dtype]),
                              ldexp(1, normal[dtype]),
                              -4,
                              NAN,
                              INFINITY,
                              ldexp(-1, normal[dtype] / 2),
                              ldexp(1, 3 - normal[dtype] / 2)};
    enum { COUNT = sizeof(numbers) / sizeof(numbers[0]) };
    for (int32_t round = 0; round < 4 * COUNT * COUNT; round++) {
        problem made;
        prepare(&made, dtype, round % 3 == 0 ? Y5_FLOAT64 : Y5_FLOAT32, 3, 19);
        double factor = numbers[round / 4 % COUNT];
        bool in_weight = round % 2 == 0;
        for (int64_t i = 0; i < 19; i++) {
            set_element(made.inputs[WEIGHT], 19 + i, dtype, 1);
        }
        set_element(made.inputs[BIAS], 1, dtype, 1);
        bool as_scale = round % 4 < 2; /* the number is the scale, or gamma */
        double gamma = numbers[round / 4 / COUNT] * (as_scale ? root_of(&made, 1) : 1);
        set_element(made.inputs[GAMMA], 1, dtype, gamma);
        set_element(made.inputs[in_weight ? WEIGHT : BIAS], in_weight ? 19 + round % 19 : 1, dtype,
                    factor);
        bool expected = false;
        for (int64_t row = 0; row < 3; row++) {
            expected |= row_may_differ(&made, row);
        }
        run_pair(level, &made, 1);
        CHECK((made.doubtful != 0) == expected, "type %d: gamma %a, %s %a", (int)dtype, gamma,
              in_weight ? "weight" : "bias", factor);
        free_all();
    }
}

void
test_fuse(y5_level level)
{
    check_types(level);
    check_threads(level);
    check_layouts(level);
    check_doubts(level);
    for (int type = 0; type < Y5_FLOATING_COUNT; type++) {
        check_borders(level, (y5_dtype)type);
    }
}
