/* From tensors to the layers that the core and the CUDA library prune. */
#include "plan/prune.h"

#include <stdlib.h>

/* Bytes moved per byte of weights: read twice, written once. */
#define PASSES 3

static void
start(void *data)
{
    y5_prune_plan *self = data;
    self->count = 0;
    self->bytes = 0;
    self->workspace = NULL;
    self->workspace_bytes = 0;
}

static const char *
refusal(const y5_tensor *tensor)
{
    const char *reason = y5_not_floating(tensor);
    if (reason == NULL && !y5_tensor_is_contiguous(tensor)) {
        reason = "not contiguous";
    }
    return reason != NULL ? reason : y5_not_aligned(tensor);
}

static y5_status
take_weight(y5_prune_plan *self, const y5_tensor *tensor, y5_error *error)
{
    int64_t at = self->count++;
    int64_t wanted = self->wanted[at];
    if (wanted < 0 || wanted > tensor->numel) {
        return y5_fail(error, Y5_BAD_VALUE, "counts", "layer %lld: allowed are integers 0 to %lld",
                       (long long)at, (long long)tensor->numel);
    }
    self->items[at] = (y5_prune_layer){
        .weights = tensor->data, .numel = tensor->numel, .count = wanted, .dtype = tensor->dtype};
    self->bytes += PASSES * tensor->numel * (int64_t)y5_dtype_bytes(tensor->dtype);
    return Y5_OK;
}

static y5_status
take(void *data, int64_t index, const y5_tensor *tensor, y5_error *error)
{
    y5_prune_plan *self = data;
    if (index >= self->room * (self->writes ? 2 : 1)) {
        self->workspace = tensor->data;
        self->workspace_bytes = tensor->numel;
        return y5_is_workspace(tensor, Y5_INT8)
                   ? Y5_OK
                   : y5_refuse(error, "the workspace is not one of bytes");
    }
    const char *reason = refusal(tensor);
    if (reason != NULL) {
        return y5_refuse(error, reason);
    }
    if (!self->writes || index % 2 == 0) {
        return take_weight(self, tensor, error);
    }
    y5_prune_layer *layer = &self->items[self->count - 1];
    if (tensor->dtype != layer->dtype || tensor->numel != layer->numel) {
        return y5_fail(error, Y5_BAD_VALUE, "pruned", "layer %lld: not like the weight",
                       (long long)self->count - 1);
    }
    layer->pruned = tensor->data;
    return Y5_OK;
}

static y5_status
check(void *data, y5_overlap overlap, y5_demand *demand, y5_error *error)
{
    const y5_prune_plan *self = data;
    demand->bytes = self->bytes;
    demand->torch_bytes = self->writes ? 0 : self->bytes; /* no batch is refused midway */
    return overlap == Y5_APART
               ? Y5_OK
               : y5_fail(error, Y5_BAD_VALUE, "pruned", "shares memory with another tensor");
}

static y5_status
run(void *data, const y5_run *how, bool as_torch, y5_error *error)
{
    (void)error;
    (void)as_torch;
    y5_prune_plan *self = data;
    y5_prune(how, self->items, self->count, self->like_torch);
    return Y5_OK;
}

static y5_status
launch(void *data, const y5_gpu *gpu, y5_error *error)
{
    y5_prune_plan *self = data;
    y5_cuda_error told = {0};
    y5_cuda_status status = Y5_CUDA_OK;
    self->needed_bytes = gpu->api->prune_workspace_bytes(self->items, self->count);
    bool short_of = self->workspace != NULL && self->workspace_bytes < self->needed_bytes;
    if (self->workspace != NULL && !short_of) { /* else the caller makes room for it now */
        status = gpu->api->prune(&gpu->where, self->items, self->count, self->workspace,
                                 self->workspace_bytes, &told);
    }
    return short_of ? y5_refuse(error, "the weights were replaced meanwhile")
                    : y5_cuda_status_of(status, &told, error);
}

bool
y5_prune_plan_open(y5_prune_plan *self, int64_t layers)
{
    self->room = layers;
    self->items = calloc((size_t)layers + 1, sizeof(*self->items));
    self->wanted = calloc((size_t)layers + 1, sizeof(*self->wanted));
    return self->items != NULL && self->wanted != NULL;
}

y5_plan
y5_prune_plan_steps(y5_prune_plan *self)
{
    return (y5_plan){.data = self,
                     .groups = UINT32_MAX,
                     .start = start,
                     .take = take,
                     .check = check,
                     .run = self->writes ? run : NULL,
                     .launch = self->writes ? launch : NULL};
}

void
y5_prune_plan_free(y5_prune_plan *self)
{
    free(self->items);
    free(self->wanted);
}
