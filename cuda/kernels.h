/* What the launchers, which are C, and the kernels agree on: the kernels' names and arguments, and
 * how work is cut into chunks. */
#ifndef Y5_KERNELS_H
#define Y5_KERNELS_H

#include "core/items.h"

/* X(name) for each kernel. Where there are two for the same work, the one whose table has room for
 * few items stands in front of the one for many. */
#define Y5_KERNELS(X)                                                                              \
    X(ema_float32_few)                                                                             \
    X(ema_float32_many)                                                                            \
    X(ema_float16_few)                                                                             \
    X(ema_float16_many)                                                                            \
    X(ema_bfloat16_few)                                                                            \
    X(ema_bfloat16_many)                                                                           \
    X(ema_any_few)                                                                                 \
    X(ema_any_many)                                                                                \
    X(sparsity_few)                                                                                \
    X(sparsity_many)                                                                               \
    X(sparsity_sum_float32)                                                                        \
    X(sparsity_sum_float64)                                                                        \
    X(fuse_few)                                                                                    \
    X(fuse_many)                                                                                   \
    X(prune_digit_few)                                                                             \
    X(prune_digit_many)                                                                            \
    X(prune_ties_few)                                                                              \
    X(prune_ties_many)                                                                             \
    X(prune_apply_few)                                                                             \
    X(prune_apply_many)                                                                            \
    X(scale_img_float32)                                                                           \
    X(scale_img_float16)                                                                           \
    X(scale_img_bfloat16)

#ifdef __CUDACC__
#define Y5_BOTH_SIDES __host__ __device__ static inline
#else
#define Y5_BOTH_SIDES static inline
#endif

#ifdef __cplusplus
namespace y5 {
#endif

enum {
    block_threads = 256, /* in every kernel */

    /* Bytes a kernel's arguments may have: 4 KiB ever since, 32,764 from CUDA 12.1 and sm_70 on;
     * and those kept free for what is not the table. */
    few_bytes = 4096,
    many_bytes = 32764,
    other_arguments_bytes = 128,

    /* Elements of a chunk. Of ema: 4 accesses of 16 bytes per thread and stream in float32; of
     * fuse: the scales of all rows it can touch fit into shared memory. */
    ema_chunk_elements = 4096,
    fuse_chunk_elements = 2048,
    prune_chunk_elements = 4096,
    zero_chunk_bytes = 16384, /* 4 accesses of 16 bytes per thread */

    /* Bits of prune's key that one launch decides: float32 takes 3, float16 and bfloat16 2,
     * float64 6. */
    digit_bits = 11,
    digit_bins = 1 << digit_bits,

    /* Of scale_img: a block's threads along a row, its rows, and the planes that a thread resizes
     * at a time: their loads are in flight together. */
    scale_row_threads = 32,
    scale_rows = block_threads / scale_row_threads,
    scale_planes = 4,
};

/* A table of items and the chunks they are cut into, a kernel's argument: this, first_chunk[items
 * that it has room for + 1], and the items behind, at a multiple of 8. Chunks first_chunk[i] ...
 * first_chunk[i + 1] - 1 are item i's. */
typedef struct {
    uint32_t count;
    uint32_t chunks;
} table_head;

#define Y5_TABLE_ROOM(bytes, item_bytes)                                                           \
    (((int)(bytes)-other_arguments_bytes) / ((int)(item_bytes) + (int)sizeof(uint32_t)))
#define Y5_TABLE_ITEMS_AT(room) (((int)sizeof(table_head) + 4 * ((room) + 1) + 7) / 8 * 8)

typedef struct {
    void *average;
    const void *source;
    uint64_t numel_and_dtypes; /* numel * 16 + average_dtype * 4 + source_dtype */
} ema_entry;

/* The scalars decay and 1 - decay, computed in double and rounded once as torch rounds them. */
typedef struct {
    double decay;
    double rest;
    float decay_in_float;
    float rest_in_float;
} ema_scalars;

typedef struct {
    const void *data;
    int64_t numel;
    uint64_t mask;       /* of the bits that are clear in a zero, repeated to 64 bits */
    uint32_t word_bytes; /* of an element: 1, 2, 4, 8 or 16 */
    uint32_t slot;       /* of the result */
} zero_entry;

typedef struct {
    y5_fuse_pair pair;
    int32_t *doubtful; /* NULL: nobody asks */
} fuse_entry;

/* What is known of a layer's threshold, the key of rank count - 1. Zeroed in front of the first
 * launch; each launch's last block of a layer brings it forward. */
typedef struct {
    uint64_t key;       /* the digits decided so far */
    int64_t rank;       /* of the threshold among the keys with these digits */
    int64_t tie_chunk;  /* equal keys are pruned in chunks in front of it, and kept behind it */
    int64_t tie_wanted; /* equal keys to prune in it, the first ones */
    uint32_t tied;      /* the two above are to be found */
    uint32_t arrived;   /* chunks that are done in this launch */
} prune_state;

/* Memory of the layers of one table; all of it but `chunk_equals` zeroed before. */
typedef struct {
    prune_state *states;
    unsigned long long *histograms; /* digit_bins for each layer */
    uint32_t *chunk_equals;         /* for each chunk of the table */
} prune_workspace;

typedef struct {
    y5_scale_img image;
    int64_t plane_groups; /* that the grid is deep: each takes every so many-th plane */
    float row_scale;      /* input / resized as torch rounds it */
    float column_scale;
    bool fused_index;
    bool copied; /* both axes keep their size: torch copies */
    int above_blend;
    int below_blend;
    int row_blend;
} scale_job;

Y5_BOTH_SIDES int
key_bits(int32_t dtype)
{
    return dtype == Y5_FLOAT32 ? 31 : dtype == Y5_FLOAT64 ? 63 : 15;
}

Y5_BOTH_SIDES int
digits_of(int32_t dtype)
{
    return (key_bits(dtype) + digit_bits - 1) / digit_bits;
}

/* Neither none nor all of the layer: there is a threshold to be found. */
Y5_BOTH_SIDES bool
is_selected(const y5_prune_layer *layer)
{
    return layer->count > 0 && layer->count < layer->numel;
}

#ifdef __cplusplus
} // namespace y5
#endif

#endif
