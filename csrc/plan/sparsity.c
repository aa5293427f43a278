/* From tensors to the lists in which the core and the CUDA library count zeros. */
#include "plan/sparsity.h"

static void
start(void *data)
{
    y5_sparsity_plan *self = data;
    self->count = 0;
    self->elements = 0;
    self->bytes = 0;
    self->zeros = NULL;
}

static y5_status
take(void *data, int64_t index, const y5_tensor *tensor, y5_error *error)
{
    y5_sparsity_plan *self = data;
    if (index >= self->room) {
        if (tensor->numel < self->zeros_count * (int64_t)sizeof(*self->zeros) ||
            !y5_is_workspace(tensor, Y5_INT8)) {
            return y5_refuse(error, "too little memory for the counts");
        }
        self->zeros = tensor->data;
        return Y5_OK;
    }
    if (!y5_tensor_is_dense(tensor)) {
        return y5_refuse(error, "a parameter with gaps in its memory");
    }
    self->found[self->count] = 0;
    self->items[self->count++] = (y5_elements){tensor->data, tensor->numel, tensor->dtype};
    self->elements += tensor->numel;
    self->bytes += tensor->numel * (int64_t)y5_dtype_bytes(tensor->dtype);
    return Y5_OK;
}

static y5_status
check(void *data, y5_overlap overlap, y5_demand *demand, y5_error *error)
{
    const y5_sparsity_plan *self = data;
    demand->bytes = self->bytes;
    demand->torch_bytes = self->bytes;
    return y5_refuse(error,
                     overlap != Y5_APART ? "the counts share memory with a parameter" : NULL);
}

static y5_status
run(void *data, const y5_run *how, bool as_torch, y5_error *error)
{
    (void)error;
    (void)as_torch;
    y5_sparsity_plan *self = data;
    y5_sparsity_count(how, self->items, self->count, self->found);
    return Y5_OK;
}

static y5_status
launch(void *data, const y5_gpu *gpu, y5_error *error)
{
    const y5_sparsity_plan *self = data;
    y5_cuda_error told = {0};
    if (self->zeros == NULL) { /* the first look: the caller makes room for the counts */
        return Y5_OK;
    }
    y5_cuda_status status = gpu->api->sparsity_count(&gpu->where, self->items, self->count,
                                                     self->zeros, self->zeros_count, &told);
    return y5_cuda_status_of(status, &told, error);
}

size_t
y5_sparsity_plan_bytes(int64_t tensors)
{
    return ((size_t)tensors + 1) * (sizeof(y5_elements) + sizeof(_Atomic int64_t));
}

y5_status
y5_sparsity_plan_open(y5_sparsity_plan *self, int64_t tensors, void *memory)
{
    if (memory == NULL) {
        return Y5_NO_MEMORY;
    }
    self->room = tensors;
    self->items = memory;
    self->found = (_Atomic int64_t *)(void *)(self->items + tensors + 1);
    return Y5_OK;
}

y5_plan
y5_sparsity_plan_steps(y5_sparsity_plan *self)
{
    return (y5_plan){.data = self,
                     .groups = Y5_COUNTED | Y5_COUNTS,
                     .start = start,
                     .take = take,
                     .check = check,
                     .run = run,
                     .launch = launch};
}

static y5_status
take_one(void *data, int64_t index, const y5_tensor *tensor, y5_error *error)
{
    (void)index;
    (void)error;
    y5_count_plan *self = data;
    self->tensor = *tensor;
    return Y5_OK;
}

static y5_status
count_one(void *data, const y5_run *how, bool as_torch, y5_error *error)
{
    (void)error;
    (void)as_torch;
    y5_count_plan *self = data;
    self->zeros = y5_sparsity_count_tensor(how->level, &self->tensor);
    return Y5_OK;
}

y5_plan
y5_count_plan_steps(y5_count_plan *self)
{
    return (y5_plan){.data = self, .groups = UINT32_MAX, .take = take_one, .run = count_one};
}

static y5_status
take_sum(void *data, int64_t index, const y5_tensor *tensor, y5_error *error)
{
    y5_sum_plan *self = data;
    self->tensors[index] = *tensor;
    if (tensor->device != Y5_CUDA) { /* the sum is where the zeros are */
        return y5_fail(error, Y5_BAD_VALUE, "zeros", "not on a CUDA device");
    }
    if (index == 0 && (tensor->dtype != Y5_INT64 || !y5_tensor_is_dense(tensor))) {
        return y5_fail(error, Y5_BAD_VALUE, "zeros", "expected int64, side by side");
    }
    if (index == 1 &&
        (tensor->numel < 1 || (tensor->dtype != Y5_FLOAT32 && tensor->dtype != Y5_FLOAT64))) {
        return y5_fail(error, Y5_BAD_VALUE, "sum", "expected room for a float32 or float64");
    }
    return Y5_OK;
}

static y5_status
check_sum(void *data, y5_overlap overlap, y5_demand *demand, y5_error *error)
{
    (void)data;
    (void)demand;
    return overlap == Y5_APART ? Y5_OK
                               : y5_fail(error, Y5_BAD_VALUE, "sum", "shares memory with zeros");
}

static y5_status
launch_sum(void *data, const y5_gpu *gpu, y5_error *error)
{
    const y5_tensor *tensors = ((const y5_sum_plan *)data)->tensors;
    y5_cuda_error told = {0};
    y5_cuda_status status =
        gpu->api->sparsity_sum(&gpu->where, tensors[0].data, tensors[0].numel,
                               (int32_t)tensors[1].dtype, tensors[1].data, &told);
    return y5_cuda_status_of(status, &told, error);
}

y5_plan
y5_sum_plan_steps(y5_sum_plan *self)
{
    return (y5_plan){.data = self,
                     .groups = UINT32_MAX,
                     .take = take_sum,
                     .check = check_sum,
                     .launch = launch_sum};
}
