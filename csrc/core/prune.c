/* prune: zeroes the smallest weights of each layer. Hands layers to threads and threads their
 * working memory; knows neither modules nor Python. */
#include "core/ops.h"
#include "core/prune_ties.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

/* Working memory of a thread is 1/8 of the call's largest layer, and at least this, which is below
 * 1/8 of the largest layer of YOLOv5n: a call may hold small layers only. */
#define SCRATCH_SHARE 8
#define SCRATCH_BYTES ((int64_t)128 * 1024)

/* Elements counted before lanes of 16 bits could overflow, and gathered between two looks at how
 * much memory is left. */
#define BLOCK 4096

/* At most this many keys are selected from directly: few enough to stay in the L1 cache. */
#define FEW_KEYS 1024

/* A bracket may hold one in so many keys of the sample more than it must: deciding the last bits of
 * its ends costs more than those keys do. */
#define SPARE_SHARE 256

/* Layers from this size on are written past the caches, in pieces that fit the L1 cache: they would
 * drive the weights out of an L2 cache before these are read again. */
#define LARGE_BYTES ((int64_t)1 << 20)
#define STREAM_BYTES 1024
#define READ_AHEAD_BYTES 2048

/* A layer's key of rank `count` - 1 in ascending order, and where it stands. */
typedef struct {
    int64_t key;
    int64_t below; /* keys smaller than it */
    int64_t equal; /* keys equal to it, itself included */
} threshold;

typedef void (*prune_kernel)(y5_prune_layer *layer, void *scratch, int64_t scratch_bytes);

#if Y5_X86 || Y5_ARM
/* For each mask of 8 lanes the numbers of the lanes set, in order, 4 bits each from the lowest. */
#define SET(mask, lane) ((uint32_t)(mask) >> (lane)&1U)
#define RANK(mask, lane)                                                                           \
    (((lane) > 0 ? SET(mask, 0) : 0U) + ((lane) > 1 ? SET(mask, 1) : 0U) +                         \
     ((lane) > 2 ? SET(mask, 2) : 0U) + ((lane) > 3 ? SET(mask, 3) : 0U) +                         \
     ((lane) > 4 ? SET(mask, 4) : 0U) + ((lane) > 5 ? SET(mask, 5) : 0U) +                         \
     ((lane) > 6 ? SET(mask, 6) : 0U))
#define LANE(mask, lane) (SET(mask, lane) * (uint32_t)(lane) << 4 * RANK(mask, lane))
#define LANES(m)                                                                                   \
    (LANE(m, 1) | LANE(m, 2) | LANE(m, 3) | LANE(m, 4) | LANE(m, 5) | LANE(m, 6) | LANE(m, 7))
#define LANES_4(m) LANES(m), LANES((m) + 1), LANES((m) + 2), LANES((m) + 3)
#define LANES_16(m) LANES_4(m), LANES_4((m) + 4), LANES_4((m) + 8), LANES_4((m) + 12)
#define LANES_64(m) LANES_16(m), LANES_16((m) + 16), LANES_16((m) + 32), LANES_16((m) + 48)
static const uint32_t packed_lanes[256] = {LANES_64(0), LANES_64(64), LANES_64(128), LANES_64(192)};
#endif

#define Y5_KERNEL_FILE "core/prune.inc"
#include "core/levels.h"

static const prune_kernel kernels[Y5_LEVEL_COUNT] = Y5_EACH_LEVEL(prune_layer);

typedef struct {
    y5_prune_layer *layers;
    int64_t count;
    int64_t scratch_bytes;
    prune_kernel kernel;
    bool like_torch;
    _Atomic int64_t next;
} prune_work;

/* One thread: layer after layer until none is left, with one piece of memory for all of them. */
static void
prune_some(int64_t worker, void *context)
{
    (void)worker;
    prune_work *work = context;
    void *scratch = malloc((size_t)work->scratch_bytes);
    int64_t bytes = scratch != NULL ? work->scratch_bytes : 0; /* the kernel is only slower then */
    int64_t at = atomic_fetch_add_explicit(&work->next, 1, memory_order_relaxed);
    while (at < work->count) {
        y5_prune_layer *layer = &work->layers[at];
        work->kernel(layer, scratch, bytes);
        if (layer->ambiguous && work->like_torch) {
            layer->ambiguous = !y5_prune_choose_ties(layer);
        }
        at = atomic_fetch_add_explicit(&work->next, 1, memory_order_relaxed);
    }
    free(scratch);
}

void
y5_prune(const y5_run *run, y5_prune_layer *layers, int64_t count, bool like_torch)
{
    int64_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t bytes = layers[i].numel * (int64_t)y5_dtype_bytes(layers[i].dtype);
        largest = bytes > largest ? bytes : largest;
    }
    int64_t share = largest / SCRATCH_SHARE;
    prune_work work = {
        .layers = layers,
        .count = count,
        .scratch_bytes = share > SCRATCH_BYTES ? share : SCRATCH_BYTES,
        .kernel = kernels[run->level],
        .like_torch = like_torch,
    };
    atomic_init(&work.next, 0);
    int64_t workers = run->pool.run != NULL && run->pool.threads > 1 ? run->pool.threads : 1;
    y5_parallel_for(&run->pool, workers < count ? workers : count, prune_some, &work);
}
