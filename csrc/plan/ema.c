/* From pairs of tensors to the lists that the core and the CUDA library average. */
#include "plan/ema.h"

#include <stdlib.h>
#include <string.h>

static bool
is_half(y5_dtype dtype)
{
    return dtype == Y5_FLOAT16 || dtype == Y5_BFLOAT16;
}

/* Why two tensors cannot be updated with the original's bits, or NULL. */
static const char *
refusal(const y5_ema_plan *self, const y5_tensor *average, const y5_tensor *source)
{
    if (average->dtype >= Y5_FLOATING_COUNT) {
        return "8-bit floats";
    }
    if (source->dtype >= Y5_FLOATING_COUNT) {
        return "the model's tensor is not of a floating type known here";
    }
    if (average->ndim != source->ndim ||
        memcmp(average->shape, source->shape, (size_t)average->ndim * sizeof(average->shape[0])) !=
            0) {
        return "shapes differ";
    }
    if (!self->half_scalars_stay_float32 && (is_half(average->dtype) || is_half(source->dtype))) {
        return "16-bit floats, and torch before 2.1 rounds them otherwise";
    }
    const char *reason = y5_not_aligned(average);
    return reason != NULL ? reason : y5_not_aligned(source);
}

/* Gives the pair a layout where it needs one. */
static y5_status
add_layout(const y5_ema_layout **place, const y5_tensor *average, const y5_tensor *source,
           y5_error *error)
{
    if (y5_tensor_same_order(average, source) && y5_tensor_is_dense(average)) {
        return Y5_OK;
    }
    if (average->device == Y5_CUDA) {
        return y5_refuse(error, "gaps or another order in memory, on a GPU");
    }
    y5_ema_layout *layout = calloc(1, sizeof(*layout));
    if (layout == NULL) {
        return Y5_NO_MEMORY;
    }
    *place = layout;
    return y5_ema_layout_of(layout, average, source)
               ? Y5_OK
               : y5_refuse(error, "elements of the average overlap each other");
}

static void
start(void *data)
{
    y5_ema_plan *self = data;
    for (int64_t i = 0; i < self->count; i++) {
        free((void *)self->layouts[i]);
        self->layouts[i] = NULL;
    }
    self->count = 0;
    self->bytes = 0;
}

static y5_status
take(void *data, int64_t index, const y5_tensor *tensor, y5_error *error)
{
    y5_ema_plan *self = data;
    if (index % 2 == 0) {
        self->average = tensor;
        /* Counters and other integers are never averaged. */
        return y5_dtype_is_floating(tensor->dtype) ? Y5_OK : Y5_SKIP;
    }
    const y5_tensor *average = self->average;
    const char *reason = refusal(self, average, tensor);
    if (reason != NULL) {
        return y5_refuse(error, reason);
    }
    int64_t at = self->count++;
    self->items[at] = (y5_ema_pair){
        .average = average->data,
        .source = tensor->data,
        .numel = average->numel,
        .average_dtype = average->dtype,
        .source_dtype = tensor->dtype,
    };
    self->bytes += average->numel *
                   (int64_t)(2 * y5_dtype_bytes(average->dtype) + y5_dtype_bytes(tensor->dtype));
    return add_layout(&self->layouts[at], average, tensor, error);
}

static y5_status
check(void *data, y5_overlap overlap, y5_demand *demand, y5_error *error)
{
    y5_ema_plan *self = data;
    demand->bytes = self->bytes;
    demand->torch_bytes = self->bytes;
    demand->follows_torch = y5_ema_follows_torch(self->items, self->layouts, self->count);
    self->in_order = overlap == Y5_WRITTEN_TWICE;
    return y5_refuse(error, overlap == Y5_READ_WRITTEN ? "the average shares memory with the model"
                                                       : NULL);
}

static y5_status
run(void *data, const y5_run *how, bool as_torch, y5_error *error)
{
    (void)error;
    const y5_ema_plan *self = data;
    if (as_torch) {
        y5_ema_update_as_torch(how, self->items, self->count, self->decay);
        return Y5_OK;
    }
    y5_run alone = {.level = how->level, .pool = {NULL, 1}};
    y5_ema_update(self->in_order ? &alone : how, self->items, self->layouts, self->count,
                  self->decay);
    return Y5_OK;
}

static y5_status
launch(void *data, const y5_gpu *gpu, y5_error *error)
{
    const y5_ema_plan *self = data;
    y5_cuda_error told = {0};
    if (self->in_order) {
        return y5_refuse(error, "entries that share memory, on a GPU");
    }
    y5_cuda_status status =
        gpu->api->ema_update(&gpu->where, self->items, self->count, self->decay, &told);
    return y5_cuda_status_of(status, &told, error);
}

size_t
y5_ema_plan_bytes(int64_t pairs)
{
    return ((size_t)pairs + 1) * sizeof(y5_ema_pair) +
           ((size_t)pairs + 1) * sizeof(y5_ema_layout *);
}

y5_status
y5_ema_plan_open(y5_ema_plan *self, int64_t pairs, void *memory)
{
    if (memory == NULL) {
        return Y5_NO_MEMORY;
    }
    self->items = memory;
    self->layouts = (const y5_ema_layout **)(void *)(self->items + pairs + 1);
    memset((void *)self->layouts, 0, ((size_t)pairs + 1) * sizeof(*self->layouts));
    return Y5_OK;
}

y5_plan
y5_ema_plan_steps(y5_ema_plan *self)
{
    return (y5_plan){.data = self,
                     .groups = UINT32_MAX,
                     .start = start,
                     .take = take,
                     .check = check,
                     .run = run,
                     .launch = launch};
}

void
y5_ema_plan_close(y5_ema_plan *self)
{
    start(self);
}
