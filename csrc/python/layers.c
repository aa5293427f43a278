/* Borrows the tensors of a prune call and checks every one before the first is written. */
#include "python/layers.h"

#include <stdio.h>
#include <string.h>

/* Bytes moved per byte of weights: read twice, written once. */
#define PASSES 3

/* True where the elements lie in memory in the order of their indices, without gaps. */
static bool
is_contiguous(const y5_tensor *tensor)
{
    int64_t step = 1;
    for (int32_t i = tensor->ndim - 1; i >= 0; i--) {
        if (tensor->shape[i] != 1 && tensor->strides[i] != step) {
            return false;
        }
        step *= tensor->shape[i];
    }
    return true;
}

/* True unless torch says that the values read are those in memory. */
static bool
is_negated(const y5_state *state, PyObject *object)
{
    PyObject *method = PyObject_GetAttr(object, state->names[Y5_NAME_IS_NEG]);
    PyObject *answer = method != NULL ? PyObject_CallNoArgs(method) : NULL;
    bool negated = answer != Py_False;
    Py_XDECREF(answer);
    Py_XDECREF(method);
    PyErr_Clear();
    return negated;
}

/* Why this tensor cannot be pruned here, or NULL. */
static const char *
refusal(const y5_state *state, PyObject *object, const y5_tensor *tensor)
{
    if (tensor->dtype >= Y5_FLOATING_COUNT) {
        return "not of a floating type known here";
    }
    if (tensor->numel > 0 && !is_contiguous(tensor)) {
        return "not contiguous";
    }
    return is_negated(state, object) ? "a negative bit is set" : NULL;
}

/* Borrows one tensor; the argument of an error names it. */
static y5_status
borrow(const y5_state *state, PyObject *object, const char *which, int64_t at, y5_tensor *tensor,
       y5_loan *loan, y5_error *error)
{
    y5_status status = Y5_OK;
    if (!y5_is_plain_tensor(state, object)) {
        status = y5_fail(error, Y5_UNSUPPORTED, "", "a subclass of torch.Tensor, or no tensor");
    } else {
        status = y5_borrow(state, object, tensor, loan, error);
    }
    const char *reason = status == Y5_OK ? refusal(state, object, tensor) : NULL;
    if (reason != NULL) {
        status = y5_fail(error, Y5_UNSUPPORTED, "", "%s", reason);
    }
    if (status != Y5_OK) {
        snprintf(error->argument, sizeof(error->argument), "%s %lld", which, (long long)at);
    }
    return status;
}

/* Fills layer `at`; its two references and loans are owned by `layers` on every path. */
static y5_status
add_layer(const y5_state *state, PyObject *weights, PyObject *pruned, PyObject *count,
          y5_layers *layers, y5_error *error)
{
    int64_t at = layers->count++;
    y5_tensor tensor;
    y5_tensor result;
    Py_INCREF(weights);
    layers->objects[2 * at] = weights;
    y5_status status = borrow(state, weights, "weight", at, &tensor, &layers->loans[2 * at], error);
    if (status != Y5_OK) {
        return status;
    }
    long long wanted = PyLong_Check(count) ? PyLong_AsLongLong(count) : -1;
    if (wanted < 0 || wanted > tensor.numel) {
        PyErr_Clear();
        return y5_fail(error, Y5_BAD_VALUE, "counts", "layer %lld: allowed are integers 0 to %lld",
                       (long long)at, (long long)tensor.numel);
    }
    layers->items[at] = (y5_prune_layer){
        .weights = tensor.data, .numel = tensor.numel, .count = wanted, .dtype = tensor.dtype};
    layers->bytes += PASSES * tensor.numel * (int64_t)y5_dtype_bytes(tensor.dtype);
    if (pruned == NULL) {
        return Y5_OK;
    }
    Py_INCREF(pruned);
    layers->objects[2 * at + 1] = pruned;
    status = borrow(state, pruned, "pruned", at, &result, &layers->loans[2 * at + 1], error);
    if (status == Y5_OK && (result.dtype != tensor.dtype || result.numel != tensor.numel)) {
        status = y5_fail(error, Y5_BAD_VALUE, "pruned", "layer %lld: not like the weight",
                         (long long)at);
    }
    layers->items[at].pruned = status == Y5_OK ? result.data : NULL;
    return status;
}

y5_status
y5_collect_layers(const y5_state *state, PyObject *weights, PyObject *pruned, PyObject *counts,
                  y5_layers *layers, y5_error *error)
{
    bool writes = pruned != Py_None;
    if (!PyList_Check(weights) || !PyList_Check(counts) || (writes && !PyList_Check(pruned))) {
        return y5_fail(error, Y5_BAD_TYPE, "", "expected lists");
    }
    Py_ssize_t count = PyList_Size(weights);
    if (PyList_Size(counts) != count || (writes && PyList_Size(pruned) != count)) {
        return y5_fail(error, Y5_BAD_VALUE, "", "lists of different lengths");
    }
    size_t room = (size_t)count + 1; /* nothing asks for 0 bytes */
    layers->items = PyMem_Calloc(room, sizeof(*layers->items));
    layers->objects = PyMem_Calloc(2 * room, sizeof(*layers->objects));
    layers->loans = PyMem_Calloc(2 * room, sizeof(*layers->loans));
    if (layers->items == NULL || layers->objects == NULL || layers->loans == NULL) {
        return Y5_NO_MEMORY;
    }
    y5_status status = Y5_OK;
    for (Py_ssize_t i = 0; status == Y5_OK && i < count; i++) {
        status =
            add_layer(state, PyList_GetItem(weights, i), writes ? PyList_GetItem(pruned, i) : NULL,
                      PyList_GetItem(counts, i), layers, error);
    }
    return status;
}

void
y5_layers_free(y5_layers *layers)
{
    for (int64_t i = 0; i < 2 * layers->count; i++) {
        y5_return(&layers->loans[i]);
        Py_XDECREF(layers->objects[i]);
    }
    PyMem_Free(layers->items);
    PyMem_Free(layers->objects);
    PyMem_Free(layers->loans);
}
