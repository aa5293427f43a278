/* The C ABI between the loader and the CUDA library: one table of functions, found by one symbol.
 * Plain C data on both sides, with the core's items (core/items.h) in the lists; knows neither
 * CUDA's headers nor torch nor Python.
 *
 * Rules that hold for every function below unless it says otherwise:
 *   - It checks its arguments, launches on `where`'s stream and returns: the library allocates
 *     nothing on the device, waits for nothing and keeps no pointer.
 *   - Where it fails, results and workspaces, which are memory apart from all inputs, may hold
 *     anything. Averages, the only memory that is read and written, are as they were, unless the
 *     status is Y5_CUDA_FAILED and its sentence says how many were updated.
 *   - Lists of items lie in host memory and may go as soon as the function has returned.
 *   - Pointers inside items, results and workspaces are device memory of `where`'s device. They
 *     must stay allocated until the stream has passed the launch; memory that torch's allocator
 *     took for the stream may be released right after the call.
 *   - The calling thread's current device is the same before and after.
 *   - All of it may be captured into a CUDA graph: check_device, to be called first, has loaded all
 *     kernels. A graph keeps the arguments, `decay` among them, of the call that was captured.
 *   - A fault inside a kernel surfaces at the caller's next synchronisation, not here. */
#ifndef Y5_CUDA_H
#define Y5_CUDA_H

#include "core/items.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a slot or a struct changes its meaning. Slots are only appended, which leaves it. */
#define Y5_CUDA_ABI_VERSION 4

/* The one exported symbol: y5_cuda_get_api_function. */
#define Y5_CUDA_SYMBOL "y5_cuda_api_get"

/* Behind all but the last, torch's own operations may do what was asked. */
typedef enum {
    Y5_CUDA_OK = 0,
    Y5_CUDA_NO_DRIVER,    /* no driver, one older than is needed, or no device: for good */
    Y5_CUDA_NO_KERNEL,    /* nothing in this build runs on the device: for good */
    Y5_CUDA_NOT_NOW,      /* any other refusal of the driver, want of memory among them */
    Y5_CUDA_BAD_ARGUMENT, /* the caller's mistake: for good */
    Y5_CUDA_FAILED,       /* the device has failed, or an update stopped halfway */
} y5_cuda_status;

/* A sentence that names the problem; written by a function that does not return Y5_CUDA_OK. */
typedef struct {
    int32_t code; /* the driver's CUresult, 0 where it was not the driver that refused */
    char message[380];
} y5_cuda_error;

/* Where a call runs. */
typedef struct {
    void *stream; /* a cudaStream_t of the device; NULL is its default stream */
    int32_t device;
    int32_t reserved; /* 0 */
} y5_cuda_where;

/* How torch's bilinear kernel was contracted; a variant is
 *     index + 2 * (above + 3 * (below + 3 * rows))   index 0 or 1; the others 0, 1 or 2
 * index: where an output lies among the inputs, scale * (i + 0.5) - 0.5: two roundings, or 1 FMA.
 * above, below, rows: how the upper two neighbours, the lower two, and the two results of that are
 * blended, a * x + b * y with a * x on the left (rows: above) as
 *     0  round(round(a * x) + round(b * y))
 *     1  fma(a, x, round(b * y))
 *     2  fma(b, y, round(a * x))
 * Which one the installed torch has is found by trying, the likely ones first: they are those of
 * its kernel for contiguous images (channels last with few channels goes there too) and of its
 * kernel for many channels side by side, as nvcc 13.0 compiles them. */
#define Y5_CUDA_SCALE_VARIANTS 54
#define Y5_CUDA_SCALE_LIKELY 27
#define Y5_CUDA_SCALE_LIKELY_CHANNELS_LAST 29

/* The most rows, columns and channels side by side that scale_img takes: float32 still counts so
 * many one by one with a half in between. */
#define Y5_CUDA_SCALE_SIDE_LIMIT (INT64_C(1) << 22)

typedef struct {
    uint32_t abi_version;      /* Y5_CUDA_ABI_VERSION of the build */
    uint32_t struct_bytes;     /* of this table: slots behind it are not there */
    int32_t toolkit_version;   /* of the build, 13000 for CUDA 13.0 */
    int32_t reserved;          /* 0 */
    const char *architectures; /* built for, e.g. "sm_80 sm_90 compute_120"; static */

    /* Y5_CUDA_OK where this build's kernels run on the device. Starts the device if nobody
     * did and loads all kernels, also while a graph is captured; to be asked once per device
     * and before the device's first call. */
    y5_cuda_status (*check_device)(int32_t device, y5_cuda_error *error);

    /* average = round(round(average * decay) + round(source * (1 - decay))), as y5_ema_update().
     * No average may overlap another average or any source. One launch for as many pairs as fit a
     * kernel's arguments, over 1,100. */
    y5_cuda_status (*ema_update)(const y5_cuda_where *where, const y5_ema_pair *pairs,
                                 int64_t count, double decay, y5_cuda_error *error);

    /* Elements equal to zero (-0.0 is one, NaN is not). `zeros` is device memory of `zeros_count`
     * int64: with `count` of them each item has its own, with 1 all are added up in it. They need
     * not be cleared before and are valid where the stream has passed the launch. */
    y5_cuda_status (*sparsity_count)(const y5_cuda_where *where, const y5_elements *items,
                                     int64_t count, int64_t *zeros, int64_t zeros_count,
                                     y5_cuda_error *error);

    /* Weights are gapless with their rows outermost, in one order of dimensions before and after;
     * fused_dtype is the inputs' type, or FLOAT32 to convert to on the way out.
     * scale = gamma / sqrt(variance + epsilon); weight = scale * weight + 0; bias = scale * bias +
     * (beta - gamma * mean / sqrt(variance + epsilon)); every operation rounded to the inputs'
     * type. `doubtful`, if not NULL, is device memory of `count` int32 that become 1 where the
     * original's matrix product may have other bits (a weight or a bias of the convolution is
     * infinite or NaN, or a product of numbers that are not zero vanishes) and 0 elsewhere. */
    y5_cuda_status (*fuse)(const y5_cuda_where *where, const y5_fuse_pair *pairs, int64_t count,
                           int32_t *doubtful, y5_cuda_error *error);

    /* Bytes of workspace that prune needs for these layers; any alignment of 256 bytes does. */
    int64_t (*prune_workspace_bytes)(const y5_prune_layer *layers, int64_t count);

    /* pruned = weights, but 0 * weight for the `count` smallest of each layer by (magnitude,
     * position), NaN being the largest. The workspace's content is of no use before or after. */
    y5_cuda_status (*prune)(const y5_cuda_where *where, const y5_prune_layer *layers, int64_t count,
                            void *workspace, int64_t workspace_bytes, y5_cuda_error *error);

    /* Of float32, float16 and bfloat16. Writes every element of the output once. */
    y5_cuda_status (*scale_img)(const y5_cuda_where *where, const y5_scale_img *job,
                                y5_cuda_error *error);

    /* The `count` numbers of sparsity_count's `zeros` added up one after the other in `dtype`,
     * FLOAT32 or FLOAT64, in which every sum is rounded: one number of that type into `sum`. */
    y5_cuda_status (*sparsity_sum)(const y5_cuda_where *where, const int64_t *zeros, int64_t count,
                                   int32_t dtype, void *sum, y5_cuda_error *error);
} y5_cuda_api;

/* The table, valid as long as the library is loaded. Touches no device. */
typedef const y5_cuda_api *(*y5_cuda_get_api_function)(void);

#ifdef __cplusplus
}
#endif

#endif
