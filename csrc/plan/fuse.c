/* From the tensors of convolutions and batch norms to the pairs that the core fuses. */
#include "plan/fuse.h"

#include <stdlib.h>
#include <string.h>

/* Bytes moved per byte of the weight: read once, written once. */
#define PASSES 2

const char *
y5_fuse_name(y5_fuse_role role)
{
    static const char *const names[Y5_FUSE_ROLES] = {
        [Y5_FUSE_WEIGHT] = "conv.weight",       [Y5_FUSE_BIAS] = "conv.bias",
        [Y5_FUSE_GAMMA] = "bn.weight",          [Y5_FUSE_BETA] = "bn.bias",
        [Y5_FUSE_MEAN] = "bn.running_mean",     [Y5_FUSE_VARIANCE] = "bn.running_var",
        [Y5_FUSED_WEIGHT] = "the fused weight", [Y5_FUSED_BIAS] = "the fused bias",
        [Y5_FUSE_ROOTS] = "the square roots",
    };
    return names[role];
}

void
y5_fuse_set(y5_fuse_pair *item, y5_fuse_role role, void *data)
{
    const void **const inputs[] = {
        [Y5_FUSE_WEIGHT] = &item->weight, [Y5_FUSE_BIAS] = &item->bias,
        [Y5_FUSE_GAMMA] = &item->gamma,   [Y5_FUSE_BETA] = &item->beta,
        [Y5_FUSE_MEAN] = &item->mean,     [Y5_FUSE_VARIANCE] = &item->variance,
    };
    if (role < Y5_FUSED_WEIGHT) {
        *inputs[role] = data;
    } else {
        *(role == Y5_FUSED_WEIGHT ? &item->fused_weight : &item->fused_bias) = data;
    }
}

static void
start(void *data)
{
    y5_fuse_plan *self = data;
    self->bytes = 0;
}

static bool
has_shape(const y5_tensor *tensor, const int64_t shape[4])
{
    return tensor->ndim == 4 && tensor->numel > 0 &&
           memcmp(tensor->shape, shape, 4 * sizeof(*shape)) == 0;
}

/* The weight sets the type, rows and columns of its pair. */
static y5_status
take_weight(y5_fuse_plan *self, int64_t at, const y5_tensor *weight, y5_error *error)
{
    y5_fuse_pair *item = &self->items[at];
    if (!has_shape(weight, self->shapes[at])) {
        return y5_refuse(error, "not of the shape that conv states");
    }
    item->weight = weight->data;
    item->dtype = weight->dtype;
    item->rows = weight->shape[0];
    item->columns = weight->numel / weight->shape[0];
    self->layouts[at] = *weight;
    self->layouts[at].ndim = y5_tensor_is_contiguous(weight) ? 0 : weight->ndim;
    self->bytes += PASSES * weight->numel * (int64_t)y5_dtype_bytes(weight->dtype);
    return Y5_OK;
}

/* The memory that torch gave for the fused weight. */
static y5_status
take_fused_weight(y5_fuse_plan *self, int64_t at, const y5_tensor *weight, y5_error *error)
{
    y5_fuse_pair *item = &self->items[at];
    if (weight->dtype != Y5_FLOAT32 && weight->dtype != Y5_FLOAT64) {
        return y5_refuse(error, "default dtype is not float32 or float64");
    }
    if (!has_shape(weight, self->shapes[at]) || !y5_tensor_is_contiguous(weight)) {
        return y5_refuse(error, "torch gave memory of another shape");
    }
    item->fused_weight = weight->data;
    item->fused_dtype = weight->dtype;
    return Y5_OK;
}

/* A vector with one element for each row, side by side. */
static y5_status
take_vector(y5_fuse_plan *self, int64_t at, y5_fuse_role role, const y5_tensor *vector,
            y5_error *error)
{
    y5_fuse_pair *item = &self->items[at];
    y5_dtype dtype = role == Y5_FUSED_BIAS ? item->fused_dtype : item->dtype;
    if (vector->ndim != 1 || vector->numel != item->rows || vector->dtype != dtype ||
        !y5_tensor_is_contiguous(vector)) {
        return y5_refuse(error,
                         "a batch norm or bias unlike the convolution in type or size, or gaps");
    }
    if (role >= Y5_FUSED_BIAS) { /* a bias of another type is followed by memory for the roots */
        self->roots[at] = dtype == item->dtype ? vector->data : NULL;
    }
    if (role != Y5_FUSE_ROOTS) {
        y5_fuse_set(item, role, vector->data);
    }
    return Y5_OK;
}

static y5_status
take(void *data, int64_t index, const y5_tensor *tensor, y5_error *error)
{
    y5_fuse_plan *self = data;
    y5_fuse_slot slot = self->slots[index];
    const char *reason = y5_not_floating(tensor);
    reason = reason != NULL ? reason : y5_not_aligned(tensor);
    if (reason != NULL || tensor->device != Y5_CPU) {
        return y5_refuse(error, reason != NULL ? reason : "not in the CPU's memory");
    }
    switch (slot.role) {
    case Y5_FUSE_WEIGHT:
        return take_weight(self, slot.pair, tensor, error);
    case Y5_FUSED_WEIGHT:
        return take_fused_weight(self, slot.pair, tensor, error);
    default:
        return take_vector(self, slot.pair, slot.role, tensor, error);
    }
}

static y5_status
check(void *data, y5_overlap overlap, y5_demand *demand, y5_error *error)
{
    const y5_fuse_plan *self = data;
    demand->bytes = self->bytes;
    demand->torch_bytes = Y5_HOWEVER_SMALL; /* matrix products, from some 100 elements on */
    return y5_refuse(error, overlap != Y5_APART ? "torch gave memory that is in use" : NULL);
}

static y5_status
fill_variances(void *data, const y5_run *how, bool as_torch, y5_error *error)
{
    (void)error;
    (void)as_torch;
    (void)how;
    const y5_fuse_plan *self = data;
    for (int64_t i = 0; i < self->count; i++) {
        y5_fuse_variances(&self->items[i], self->roots[i]);
    }
    return Y5_OK;
}

static y5_status
run(void *data, const y5_run *how, bool as_torch, y5_error *error)
{
    (void)error;
    (void)as_torch;
    y5_fuse_plan *self = data;
    for (int64_t i = 0; i < self->count; i++) {
        self->items[i].variance = self->roots[i];
    }
    y5_fuse(how, self->items, self->layouts, self->count, self->doubtful);
    return Y5_OK;
}

bool
y5_fuse_plan_open(y5_fuse_plan *self, int64_t pairs)
{
    size_t room = (size_t)pairs + 1;
    self->items = calloc(room, sizeof(*self->items));
    self->layouts = calloc(room, sizeof(*self->layouts));
    self->shapes = calloc(room, sizeof(*self->shapes));
    self->roots = calloc(room, sizeof(*self->roots));
    self->doubtful = calloc(room, sizeof(*self->doubtful));
    self->slots = calloc(room * Y5_FUSE_ROLES, sizeof(*self->slots));
    return self->items != NULL && self->layouts != NULL && self->shapes != NULL &&
           self->roots != NULL && self->doubtful != NULL && self->slots != NULL;
}

y5_plan
y5_fuse_plan_types(y5_fuse_plan *self, y5_fuse_role role)
{
    return (y5_plan){.data = self, .groups = Y5_FUSE_GROUP(role), .start = start, .take = take};
}

y5_plan
y5_fuse_plan_variances(y5_fuse_plan *self)
{
    return (y5_plan){.data = self,
                     .groups = Y5_FUSE_GROUP(Y5_FUSE_VARIANCE) | Y5_FUSE_GROUP(Y5_FUSED_BIAS) |
                               Y5_FUSE_GROUP(Y5_FUSE_ROOTS),
                     .start = start,
                     .take = take,
                     .check = check,
                     .run = fill_variances};
}

y5_plan
y5_fuse_plan_steps(y5_fuse_plan *self)
{
    return (y5_plan){.data = self,
                     .groups = UINT32_MAX,
                     .start = start,
                     .take = take,
                     .check = check,
                     .run = run};
}

void
y5_fuse_plan_free(y5_fuse_plan *self)
{
    free(self->items);
    free(self->layouts);
    free(self->shapes);
    free((void *)self->roots);
    free((void *)self->doubtful);
    free(self->slots);
}
