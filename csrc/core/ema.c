/* ModelEMA.update: cuts the pairs into tasks of equal size and hands them to the active level.
 * Everything was checked by the caller; knows neither state dicts nor Python. */
#include "core/half.h"
#include "core/ops.h"
#include "core/streams.h"

/* Elements of a task: three streams of 128 KiB in float32 keep a task inside a private L2. */
#define TASK_ELEMENTS ((int64_t)32 * 1024)

/* Elements above which torch deals an element-wise operation out to its pool, in parts of at least
 * so many: at::internal::GRAIN_SIZE. */
#define TORCH_GRAIN ((int64_t)32768)

/* The scalars, rounded once as torch rounds them. */
typedef struct {
    double decay;
    double rest; /* 1 - decay, computed in double before any rounding */
    float decay_float32;
    float rest_float32;
} ema_scalars;

/* Updates elements first ... last - 1 of a pair; `layout` may be NULL. */
typedef void (*ema_kernel)(const y5_ema_pair *pair, const y5_ema_layout *layout, int64_t first,
                           int64_t last, const ema_scalars *scalars);

#define Y5_KERNEL_FILE "core/ema.inc"
#include "core/levels.h"

static const ema_kernel kernels[Y5_LEVEL_COUNT] = Y5_EACH_LEVEL(ema_range);

typedef struct {
    const y5_ema_pair *pairs;
    const y5_ema_layout *const *layouts;
    ema_kernel kernel;
    ema_scalars scalars;
} ema_work;

static int64_t
numel_of(int64_t item, const void *context)
{
    return ((const ema_work *)context)->pairs[item].numel;
}

static void
update_part(int64_t item, int64_t first, int64_t last, void *context)
{
    const ema_work *work = context;
    const y5_ema_layout *layout = work->layouts != NULL ? work->layouts[item] : NULL;
    work->kernel(&work->pairs[item], layout, first, last, &work->scalars);
}

static ema_work
work_of(const y5_run *run, const y5_ema_pair *pairs, const y5_ema_layout *const *layouts,
        double decay)
{
    double rest = 1.0 - decay;
    return (ema_work){
        .pairs = pairs,
        .layouts = layouts,
        .kernel = kernels[run->level],
        .scalars = {decay, rest, (float)decay, (float)rest},
    };
}

void
y5_ema_update(const y5_run *run, const y5_ema_pair *pairs, const y5_ema_layout *const *layouts,
              int64_t count, double decay)
{
    ema_work work = work_of(run, pairs, layouts, decay);
    y5_parallel_items(&run->pool, count, numel_of, TASK_ELEMENTS, update_part, &work);
}

static void
update_one(int64_t first, int64_t last, void *context)
{
    update_part(0, first, last, context);
}

void
y5_ema_update_as_torch(const y5_run *run, const y5_ema_pair *pairs, int64_t count, double decay)
{
    for (int64_t i = 0; i < count; i++) {
        ema_work work = work_of(run, &pairs[i], NULL, decay);
        if (pairs[i].numel > 0) { /* fails where a part does, and none does */
            (void)run->pool.run(0, pairs[i].numel, TORCH_GRAIN, update_one, &work);
        }
    }
}

bool
y5_ema_follows_torch(const y5_ema_pair *pairs, const y5_ema_layout *const *layouts, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        y5_dtype dtype = pairs[i].average_dtype;
        if ((layouts != NULL && layouts[i] != NULL) || pairs[i].source_dtype != dtype ||
            (dtype != Y5_FLOAT32 && dtype != Y5_FLOAT64)) {
            return false;
        }
    }
    return true;
}

/* True where each dimension steps over everything the tighter ones reach. */
static bool
average_is_injective(const y5_ema_layout *layout)
{
    int64_t reach = 0;
    for (int32_t i = layout->ndim - 1; i >= 0; i--) {
        int64_t stride = layout->average_strides[i];
        int64_t step = stride < 0 ? -stride : stride;
        if (layout->shape[i] > 1 && step <= reach) {
            return false;
        }
        reach += (layout->shape[i] - 1) * step;
    }
    return true;
}

bool
y5_ema_layout_of(y5_ema_layout *layout, const y5_tensor *average, const y5_tensor *source)
{
    layout->ndim = 0;
    for (int32_t i = 0; i < average->ndim; i++) {
        if (average->shape[i] == 1) {
            continue;
        }
        int64_t stride = average->strides[i];
        int64_t reach = stride < 0 ? -stride : stride;
        int32_t at = layout->ndim++;
        for (; at > 0; at--) {
            int64_t other = layout->average_strides[at - 1];
            if ((other < 0 ? -other : other) >= reach) {
                break;
            }
            layout->shape[at] = layout->shape[at - 1];
            layout->average_strides[at] = other;
            layout->source_strides[at] = layout->source_strides[at - 1];
        }
        layout->shape[at] = average->shape[i];
        layout->average_strides[at] = stride;
        layout->source_strides[at] = source->strides[i];
    }
    if (layout->ndim == 0) { /* one element */
        layout->ndim = 1;
        layout->shape[0] = 1;
        layout->average_strides[0] = 1;
        layout->source_strides[0] = 1;
    }
    return average_is_injective(layout);
}
