/* Borrows and checks the tensors of a fuse call on a CUDA device, and launches it. */
#include "python/cuda_fuse.h"

#include "python/cuda_loader.h"

#include <stdio.h>
#include <string.h>

/* A pair's tuple: these tensors in this order, epsilon behind them. */
enum { WEIGHT, BIAS, GAMMA, BETA, MEAN, VARIANCE, FUSED_WEIGHT, FUSED_BIAS, TENSORS };

static const char *const tensor_names[TENSORS] = {
    [WEIGHT] = "conv.weight",
    [BIAS] = "conv.bias",
    [GAMMA] = "bn.weight",
    [BETA] = "bn.bias",
    [MEAN] = "bn.running_mean",
    [VARIANCE] = "bn.running_var",
    [FUSED_WEIGHT] = "the fused weight",
    [FUSED_BIAS] = "the fused bias",
};

static y5_status
refuse(y5_error *error, int32_t which, const char *reason)
{
    return y5_fail(error, Y5_UNSUPPORTED, tensor_names[which], "%s", reason);
}

/* Borrows one tensor of a pair; *tensor is all zeros for the bias that is not there. */
static y5_status
borrow(const y5_state *state, y5_cuda_fusion *fusion, PyObject *object, int32_t which,
       y5_tensor *tensor, y5_error *error)
{
    if (which == BIAS && object == Py_None) {
        return Y5_OK;
    }
    if (!y5_is_plain_tensor(state, object)) {
        return refuse(error, which, "a subclass of torch.Tensor, or no tensor");
    }
    if (!y5_tensors_append(&fusion->tensors, &object, 1)) {
        return Y5_NO_MEMORY;
    }
    y5_loan *loan = &fusion->tensors.loans[fusion->tensors.count - 1];
    y5_status status = y5_borrow_anywhere(state, object, tensor, loan, error);
    if (status == Y5_OK) {
        status = y5_place_add(state, &fusion->place, object, tensor, loan, error);
    }
    if (status != Y5_OK) {
        snprintf(error->argument, sizeof(error->argument), "%s", tensor_names[which]);
        return status;
    }
    if (tensor->dtype >= Y5_FLOATING_COUNT) {
        return refuse(error, which, "not of a floating type known here");
    }
    if ((uintptr_t)tensor->data % y5_dtype_bytes(tensor->dtype) != 0) {
        return refuse(error, which, "elements are not aligned to their size");
    }
    int negated = y5_is_negated(state, object, tensor);
    if (negated != 0) {
        return negated < 0 ? Y5_PYTHON_RAISED : refuse(error, which, "a negative bit is set");
    }
    return Y5_OK;
}

/* Y5_OK where the weights lie row after row, and everything else is a vector of their rows. */
static y5_status
check_pair(const y5_tensor tensors[TENSORS], bool has_bias, y5_error *error)
{
    const y5_tensor *weight = &tensors[WEIGHT];
    const y5_tensor *fused = &tensors[FUSED_WEIGHT];
    if (weight->ndim < 1 || weight->numel == 0 || !y5_tensor_is_dense(weight) ||
        (weight->shape[0] > 1 && weight->strides[0] != weight->numel / weight->shape[0])) {
        return refuse(error, WEIGHT, "no elements, gaps, or channels not outermost in memory");
    }
    if (!y5_tensor_same_order(weight, fused)) {
        return refuse(error, WEIGHT, "another shape or order in memory than the result has");
    }
    for (int32_t i = 0; i < TENSORS; i++) {
        const y5_tensor *vector = &tensors[i];
        if (i == WEIGHT || i == FUSED_WEIGHT || (i == BIAS && !has_bias)) {
            continue;
        }
        if (vector->ndim != 1 || vector->numel != weight->shape[0] ||
            (vector->numel > 1 && vector->strides[0] != 1)) {
            return refuse(error, i, "not one number for each channel, side by side");
        }
        if (vector->dtype != (i == FUSED_BIAS ? fused->dtype : weight->dtype)) {
            return refuse(error, i, "not of the weight's type");
        }
    }
    return Y5_OK;
}

static y5_status
add_pair(const y5_state *state, PyObject *pair, y5_cuda_fusion *fusion, y5_error *error)
{
    if (!PyTuple_Check(pair) || PyTuple_Size(pair) != TENSORS + 1 ||
        !PyFloat_CheckExact(PyTuple_GetItem(pair, TENSORS))) {
        return y5_fail(error, Y5_BAD_TYPE, "pairs", "expected tuples of %d tensors and a float",
                       (int)TENSORS);
    }
    y5_tensor tensors[TENSORS] = {0};
    y5_status status = Y5_OK;
    for (int32_t i = 0; i < TENSORS && status == Y5_OK; i++) {
        status = borrow(state, fusion, PyTuple_GetItem(pair, i), i, &tensors[i], error);
    }
    bool has_bias = PyTuple_GetItem(pair, BIAS) != Py_None;
    if (status == Y5_OK) {
        status = check_pair(tensors, has_bias, error);
    }
    if (status != Y5_OK) {
        return status;
    }
    fusion->items[fusion->count++] = (y5_cuda_fuse_pair){
        .weight = tensors[WEIGHT].data,
        .bias = tensors[BIAS].data,
        .gamma = tensors[GAMMA].data,
        .beta = tensors[BETA].data,
        .mean = tensors[MEAN].data,
        .variance = tensors[VARIANCE].data,
        .fused_weight = tensors[FUSED_WEIGHT].data,
        .fused_bias = tensors[FUSED_BIAS].data,
        .epsilon = PyFloat_AsDouble(PyTuple_GetItem(pair, TENSORS)),
        .channels = tensors[WEIGHT].shape[0],
        .row_numel = tensors[WEIGHT].numel / tensors[WEIGHT].shape[0],
        .dtype = (int32_t)tensors[WEIGHT].dtype,
        .fused_dtype = (int32_t)tensors[FUSED_WEIGHT].dtype,
    };
    return Y5_OK;
}

/* The flags: as many as there are pairs. */
static y5_status
add_flags(const y5_state *state, PyObject *object, y5_cuda_fusion *fusion, y5_error *error)
{
    y5_tensor flags = {0};
    if (!y5_is_plain_tensor(state, object)) {
        return y5_fail(error, Y5_BAD_TYPE, "nonfinite", "expected a tensor");
    }
    if (!y5_tensors_append(&fusion->tensors, &object, 1)) {
        return Y5_NO_MEMORY;
    }
    y5_loan *loan = &fusion->tensors.loans[fusion->tensors.count - 1];
    y5_status status = y5_borrow_anywhere(state, object, &flags, loan, error);
    if (status == Y5_OK) {
        status = y5_place_add(state, &fusion->place, object, &flags, loan, error);
    }
    if (status == Y5_OK &&
        (flags.dtype != Y5_INT32 || flags.numel != fusion->count || !y5_tensor_is_dense(&flags))) {
        status = y5_fail(error, Y5_BAD_VALUE, "nonfinite", "expected an int32 for each pair");
    }
    fusion->nonfinite = flags.data;
    return status;
}

y5_status
y5_cuda_fusion_collect(const y5_state *state, PyObject *pairs, PyObject *nonfinite,
                       y5_cuda_fusion *fusion, y5_error *error)
{
    if (!PyList_Check(pairs)) {
        return y5_fail(error, Y5_BAD_TYPE, "pairs", "expected a list");
    }
    Py_ssize_t count = PyList_Size(pairs);
    fusion->items = PyMem_Calloc((size_t)count + 1, sizeof(*fusion->items));
    if (fusion->items == NULL) {
        return Y5_NO_MEMORY;
    }
    y5_status status = Y5_OK;
    int collecting = PyGC_Disable(); /* else finalizers could replace what was borrowed */
    for (Py_ssize_t i = 0; i < count && status == Y5_OK; i++) {
        PyObject *pair = PyList_GetItem(pairs, i); /* another thread may have shortened the list */
        if (pair == NULL) {
            status = Y5_PYTHON_RAISED;
            break;
        }
        Py_INCREF(pair);
        status = add_pair(state, pair, fusion, error);
        Py_DECREF(pair);
    }
    if (status == Y5_OK) {
        status = add_flags(state, nonfinite, fusion, error);
    }
    if (collecting) {
        PyGC_Enable();
    }
    if (status == Y5_OK && fusion->place.device != Y5_CUDA) {
        status = y5_fail(error, Y5_UNSUPPORTED, "", "not on a CUDA device");
    }
    return status == Y5_OK ? y5_place_open(state, &fusion->place, error) : status;
}

y5_status
y5_launch_fuse(const y5_state *state, const y5_cuda_fusion *fusion, y5_error *error)
{
    y5_cuda_where where = {.device = fusion->place.index};
    y5_cuda_error told = {0};
    y5_status status = y5_current_stream(state, fusion->place.index, &where.stream, error);
    if (status != Y5_OK || fusion->count == 0) {
        return status;
    }
    return y5_cuda_status_of(
        fusion->place.cuda->fuse(&where, fusion->items, fusion->count, fusion->nonfinite, &told),
        &told, error);
}

void
y5_cuda_fusion_free(y5_cuda_fusion *fusion)
{
    y5_tensors_free(&fusion->tensors);
    PyMem_Free(fusion->items);
}
