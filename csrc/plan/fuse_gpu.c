/* From the tensors of convolutions and batch norms to the pairs that the CUDA library fuses. */
#include "plan/fuse_gpu.h"

#include <stdlib.h>

static y5_status
refuse(y5_error *error, y5_fuse_role role, const char *reason)
{
    return y5_fail(error, Y5_UNSUPPORTED, y5_fuse_name(role), "%s", reason);
}

static void
start(void *data)
{
    y5_gpu_fuse_plan *self = data;
    self->pair = 0;
    self->doubtful = NULL;
}

/* Y5_OK where the weights lie row after row, and everything else is a vector of their rows. */
static y5_status
check_pair(const y5_tensor tensors[Y5_FUSE_GPU_ROLES], bool has_bias, y5_error *error)
{
    const y5_tensor *weight = &tensors[Y5_FUSE_WEIGHT];
    const y5_tensor *fused = &tensors[Y5_FUSED_WEIGHT];
    if (weight->ndim < 1 || weight->numel == 0 || !y5_tensor_is_dense(weight) ||
        (weight->shape[0] > 1 && weight->strides[0] != weight->numel / weight->shape[0])) {
        return refuse(error, Y5_FUSE_WEIGHT,
                      "no elements, gaps, or channels not outermost in memory");
    }
    if (!y5_tensor_same_order(weight, fused)) {
        return refuse(error, Y5_FUSE_WEIGHT,
                      "another shape or order in memory than the result has");
    }
    for (y5_fuse_role i = Y5_FUSE_WEIGHT; i < Y5_FUSE_GPU_ROLES; i++) {
        const y5_tensor *vector = &tensors[i];
        if (i == Y5_FUSE_WEIGHT || i == Y5_FUSED_WEIGHT || (i == Y5_FUSE_BIAS && !has_bias)) {
            continue;
        }
        if (vector->ndim != 1 || vector->numel != weight->shape[0] ||
            !y5_tensor_is_contiguous(vector)) {
            return refuse(error, i, "not one number for each channel, side by side");
        }
        if (vector->dtype != (i == Y5_FUSED_BIAS ? fused->dtype : weight->dtype)) {
            return refuse(error, i, "not of the weight's type");
        }
    }
    return Y5_OK;
}

static y5_status
finish_pair(y5_gpu_fuse_plan *self, y5_error *error)
{
    const y5_tensor *tensors = self->tensors;
    bool has_bias = self->has_bias[self->pair];
    y5_status status = check_pair(tensors, has_bias, error);
    if (status != Y5_OK) {
        return status;
    }
    const y5_tensor *weight = &tensors[Y5_FUSE_WEIGHT];
    y5_fuse_pair *item = &self->items[self->pair++];
    for (y5_fuse_role i = Y5_FUSE_WEIGHT; i < Y5_FUSE_GPU_ROLES; i++) {
        y5_fuse_set(item, i, i == Y5_FUSE_BIAS && !has_bias ? NULL : tensors[i].data);
    }
    item->rows = weight->shape[0];
    item->columns = weight->numel / weight->shape[0];
    item->dtype = weight->dtype;
    item->fused_dtype = tensors[Y5_FUSED_WEIGHT].dtype;
    return Y5_OK;
}

static y5_status
take(void *data, int64_t index, const y5_tensor *tensor, y5_error *error)
{
    y5_gpu_fuse_plan *self = data;
    if (self->pair == self->count) {
        self->doubtful = tensor->data;
        return tensor->numel == self->count && y5_is_workspace(tensor, Y5_INT32)
                   ? Y5_OK
                   : y5_fail(error, Y5_BAD_VALUE, "doubtful", "expected an int32 for each pair");
    }
    y5_fuse_role role = (y5_fuse_role)self->roles[index];
    const char *reason = y5_not_floating(tensor);
    reason = reason != NULL ? reason : y5_not_aligned(tensor);
    if (reason != NULL) {
        return refuse(error, role, reason);
    }
    self->tensors[role] = *tensor;
    return role == Y5_FUSED_BIAS ? finish_pair(self, error) : Y5_OK;
}

static y5_status
check(void *data, y5_overlap overlap, y5_demand *demand, y5_error *error)
{
    (void)data;
    (void)demand;
    return overlap == Y5_APART ? Y5_OK
                               : y5_fail(error, Y5_BAD_VALUE, "pairs",
                                         "a result shares memory with another tensor");
}

static y5_status
launch(void *data, const y5_gpu *gpu, y5_error *error)
{
    const y5_gpu_fuse_plan *self = data;
    y5_cuda_error told = {0};
    y5_cuda_status status = self->count > 0 ? gpu->api->fuse(&gpu->where, self->items, self->count,
                                                             self->doubtful, &told)
                                            : Y5_CUDA_OK;
    return y5_cuda_status_of(status, &told, error);
}

bool
y5_gpu_fuse_plan_open(y5_gpu_fuse_plan *self, int64_t pairs)
{
    self->count = pairs;
    self->items = calloc((size_t)pairs + 1, sizeof(*self->items));
    self->has_bias = calloc((size_t)pairs + 1, sizeof(*self->has_bias));
    self->roles = calloc((size_t)pairs + 1, Y5_FUSE_GPU_ROLES);
    return self->items != NULL && self->has_bias != NULL && self->roles != NULL;
}

y5_plan
y5_gpu_fuse_plan_steps(y5_gpu_fuse_plan *self)
{
    return (y5_plan){.data = self,
                     .groups = UINT32_MAX,
                     .start = start,
                     .take = take,
                     .check = check,
                     .launch = launch};
}

void
y5_gpu_fuse_plan_free(y5_gpu_fuse_plan *self)
{
    free(self->items);
    free(self->has_bias);
    free(self->roles);
}
