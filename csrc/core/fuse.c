/* fuse: a convolution and its batch norm become the weight and bias of one convolution. Deals whole
 * rows to threads; the square root is the caller's. Knows neither modules nor Python. */
#include "core/half.h"
#include "core/huge_pages.h"
#include "core/ops.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>

/* Elements of a task: two streams of 128 KiB in float32 keep a task inside a private L2. */
#define TASK_ELEMENTS ((int64_t)32 * 1024)

/* Rows whose scales are computed at a time; they stay on the stack. */
#define BLOCK_ROWS 64

/* From this size on a fused weight goes to memory past the caches, since it would leave them before
 * it is read: without being fetched first it takes two thirds of the traffic. */
#define STREAMED_BYTES ((int64_t)1 << 20)

/* Elements computed in the L1 cache before they are streamed. */
#define STREAMED_ELEMENTS 1024

/* Fuses rows first ... last - 1 of a pair, `layout` being the weight's or NULL; true where one is
 * doubtful. */
typedef bool (*fuse_kernel)(const y5_fuse_pair *pair, const y5_tensor *layout, int64_t first,
                            int64_t last);

/* Element `index` of an array of a floating type. */
static double
load(const void *data, int64_t index, y5_dtype dtype)
{
    switch (dtype) {
    case Y5_FLOAT64:
        return ((const double *)data)[index];
    case Y5_FLOAT16:
        return (double)y5_half_to_float(((const uint16_t *)data)[index]);
    case Y5_BFLOAT16:
        return (double)y5_bfloat16_to_float(((const uint16_t *)data)[index]);
    default:
        return (double)((const float *)data)[index];
    }
}

/* The nearest number of the type. One operation on such numbers, done in double and rounded here,
 * is that operation rounded once: double has more than twice their digits. 16-bit types are reached
 * by way of float32, as in torch. */
static double
nearest(double value, y5_dtype dtype)
{
    switch (dtype) {
    case Y5_FLOAT64:
        return value;
    case Y5_FLOAT16:
        return (double)y5_half_to_float(y5_float_to_half((float)value));
    case Y5_BFLOAT16:
        return (double)y5_bfloat16_to_float(y5_float_to_bfloat16((float)value));
    default:
        return (double)(float)value;
    }
}

static void
store(void *data, int64_t index, y5_dtype dtype, double value)
{
    switch (dtype) {
    case Y5_FLOAT64:
        ((double *)data)[index] = value;
        break;
    case Y5_FLOAT16:
        ((uint16_t *)data)[index] = y5_float_to_half((float)value);
        break;
    case Y5_BFLOAT16:
        ((uint16_t *)data)[index] = y5_float_to_bfloat16((float)value);
        break;
    default:
        ((float *)data)[index] = (float)value;
        break;
    }
}

/* True where a matrix product does not surely have the bits of one product: its other terms are
 * 0 · factor, NaN for what is not finite; a negative product that vanishes leaves a zero whose sign
 * depends on the order of the sum; and the processor's bfloat16 products drop subnormal numbers. */
static bool
is_doubtful(double scale, double factor, double product, y5_dtype dtype)
{
    if (!(fabs(factor) <= DBL_MAX)) {
        return true;
    }
    if (scale == 0 || factor == 0 || !(fabs(scale) <= DBL_MAX)) {
        return false;
    }
    double least = dtype == Y5_BFLOAT16 ? (double)FLT_MIN : 0x1p-1074;
    return !(fabs(product) >= least && fabs(factor) >= least && fabs(scale) >= least);
}

/* Scale and fused bias of one row; true where the bias is doubtful. */
static bool
fuse_bias(const y5_fuse_pair *pair, int64_t row, double *scale)
{
    y5_dtype dtype = pair->dtype;
    double root = load(pair->variance, row, dtype);
    double gamma = load(pair->gamma, row, dtype);
    double bias = pair->bias != NULL ? load(pair->bias, row, dtype) : 0.0;
    *scale = nearest(gamma / root, dtype);
    double product = nearest(*scale * bias, dtype);
    double shift = nearest(gamma * load(pair->mean, row, dtype), dtype);
    shift = nearest(shift / root, dtype);
    shift = nearest(load(pair->beta, row, dtype) - shift, dtype);
    double fused = nearest((product + 0.0) + shift, dtype);
    store(pair->fused_bias, row, pair->fused_dtype, fused);
    return is_doubtful(*scale, bias, product, dtype);
}

/* Any types, any layout: one element after another. */
static bool
fuse_any(const y5_fuse_pair *pair, const y5_tensor *layout, int64_t first, int64_t last)
{
    y5_dtype dtype = pair->dtype;
    bool doubtful = false;
    for (int64_t row = first; row < last; row++) {
        double scale = 0;
        doubtful |= fuse_bias(pair, row, &scale);
        for (int64_t column = 0; column < pair->columns; column++) {
            int64_t to = row * pair->columns + column;
            int64_t at = layout == NULL ? to
                                        : row * layout->strides[0] +
                                              y5_offset_of(column, layout->ndim - 1,
                                                           layout->shape + 1, layout->strides + 1);
            double weight = load(pair->weight, at, dtype);
            double product = nearest(scale * weight, dtype);
            doubtful |= is_doubtful(scale, weight, product, dtype);
            store(pair->fused_weight, to, pair->fused_dtype, product + 0.0);
        }
    }
    return doubtful;
}

#define Y5_KERNEL_FILE "core/fuse.inc"
#include "core/levels.h"

static const fuse_kernel kernels[Y5_LEVEL_COUNT] = Y5_EACH_LEVEL(fuse_rows);

typedef struct {
    const y5_fuse_pair *pairs;
    const y5_tensor *layouts;
    _Atomic int32_t *doubtful;
    fuse_kernel kernel;
} fuse_work;

static int64_t
numel_of(int64_t item, const void *context)
{
    const y5_fuse_pair *pair = &((const fuse_work *)context)->pairs[item];
    return pair->rows * pair->columns;
}

/* The rows that begin in a part of the weight: so every row is one thread's, who may replace its
 * root by its bias. */
static void
fuse_part(int64_t item, int64_t first, int64_t last, void *context)
{
    const fuse_work *work = context;
    const y5_fuse_pair *pair = &work->pairs[item];
    bool strided = work->layouts != NULL && work->layouts[item].ndim > 0;
    int64_t columns = pair->columns;
    if (work->kernel(pair, strided ? &work->layouts[item] : NULL, (first + columns - 1) / columns,
                     (last + columns - 1) / columns)) {
        atomic_store_explicit(&work->doubtful[item], 1, memory_order_relaxed);
    }
}

void
y5_fuse_variances(const y5_fuse_pair *pair, void *sums)
{
    y5_dtype dtype = pair->dtype;
    double epsilon =
        nearest(pair->epsilon, dtype); /* torch makes the scalar a tensor of the type */
    for (int64_t i = 0; i < pair->rows; i++) {
        store(sums, i, dtype, nearest(load(pair->variance, i, dtype) + epsilon, dtype));
    }
}

void
y5_fuse(const y5_run *run, const y5_fuse_pair *pairs, const y5_tensor *layouts, int64_t count,
        _Atomic int32_t *doubtful)
{
    fuse_work work = {pairs, layouts, doubtful, kernels[run->level]};
    for (int64_t i = 0; i < count; i++) {
        int64_t bytes = numel_of(i, &work) * (int64_t)y5_dtype_bytes(pairs[i].fused_dtype);
        y5_advise_huge_pages(pairs[i].fused_weight, bytes);
    }
    y5_parallel_items(&run->pool, count, numel_of, TASK_ELEMENTS, fuse_part, &work);
}
