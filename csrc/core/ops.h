/* The core's whole public face: one prototype per operation. Knows no Python. */
#ifndef Y5_OPS_H
#define Y5_OPS_H

#include "core/levels.h"
#include "core/parallel.h"
#include "core/y5.h"

/* How a call is to be run: at which level, on which pool. */
typedef struct {
    y5_level level;
    y5_pool pool;
} y5_run;

/* ema and sparsity take a list of `count` items and `starts`, count + 1 numbers: the sum of the
 * numbers of elements in front of each item, and at the end the sum of all. */

/* Shape and strides (in elements) of a pair that does not walk its memory in one gapless order. */
typedef struct {
    int32_t ndim;
    int64_t shape[Y5_MAX_DIMS];
    int64_t average_strides[Y5_MAX_DIMS];
    int64_t source_strides[Y5_MAX_DIMS];
} y5_ema_layout;

/* One entry of the average and the value it moves towards, of the same shape. */
typedef struct {
    void *average;
    const void *source;
    const y5_ema_layout *layout; /* NULL: both lie in memory in the same gapless order */
    y5_dtype average_dtype;      /* below Y5_FLOATING_COUNT */
    y5_dtype source_dtype;       /* below Y5_FLOATING_COUNT */
} y5_ema_pair;

/* Fills `layout` for two tensors of one shape that y5_tensor_same_order() tells apart or that have
 * gaps: dimensions reordered so that the last one is the average's tightest. False where elements
 * of the average share memory, or might. */
bool y5_ema_layout_of(y5_ema_layout *layout, const y5_tensor *average, const y5_tensor *source);

/* average = round(round(average · decay) + round(source · (1 − decay))) for every element: each
 * product rounded to its own tensor's type, the sum to the average's, the scalars to float32
 * (float64 for float64 tensors). Reads one element of each, writes one; no memory of its own.
 * Pairs run side by side: no average may overlap another average or any source. */
void y5_ema_update(const y5_run *run, const y5_ema_pair *pairs, const int64_t *starts,
                   int64_t count, double decay);

/* Elements of one dense tensor to be searched for zeros. */
typedef struct {
    const void *data;
    y5_dtype dtype;
    _Atomic int64_t zeros; /* result, added to */
} y5_zero_count;

/* items[i].zeros += elements equal to zero: −0.0 is one, NaN is not. Reads each element once. */
void y5_sparsity_count(const y5_run *run, y5_zero_count *items, const int64_t *starts,
                       int64_t count);

/* Zeros of one tensor with any strides, on the calling thread. */
int64_t y5_sparsity_count_tensor(y5_level level, const y5_tensor *tensor);

/* One gapless layer and the memory, of the same size and apart from it, that takes the result. */
typedef struct {
    const void *weights;
    void *pruned;
    int64_t numel;
    int64_t count;  /* of weights to prune, 0 <= count <= numel */
    y5_dtype dtype; /* below Y5_FLOATING_COUNT */
    bool ambiguous; /* result, set where true: more weights than needed are equally small and the
                     * choice among them shows */
} y5_prune_layer;

/* pruned = weights, but 0 * weight for the layer's `count` smallest by (magnitude, position), NaN
 * being the largest. Reads each element twice and writes it once in the ordinary case; linear time
 * in every case. Needs 1/8 of the largest layer per thread, or 64 KiB if that is more, and does
 * without where that cannot be had. Threads take layers in the order given: largest first. */
void y5_prune(const y5_run *run, y5_prune_layer *layers, int64_t count);

#endif
