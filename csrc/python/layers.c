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

/* Why this tensor cannot be pruned here, or NULL; *failed with an exception. */
static const char *
refusal(const y5_state *state, PyObject *object, const y5_tensor *tensor, bool *failed)
{
    if (tensor->dtype >= Y5_FLOATING_COUNT) {
        return "not of a floating type known here";
    }
    if (tensor->numel > 0 && !is_contiguous(tensor)) {
        return "not contiguous";
    }
    if ((uintptr_t)tensor->data % y5_dtype_bytes(tensor->dtype) != 0) {
        return "elements are not aligned to their size";
    }
    int negated = y5_is_negated(state, object, tensor);
    *failed = negated < 0;
    return negated > 0 ? "a negative bit is set" : NULL;
}

/* Appends one tensor to the list and borrows it; the argument of an error names it. */
static y5_status
borrow(const y5_state *state, PyObject *object, const char *which, y5_layers *layers,
       y5_tensor *tensor, y5_error *error)
{
    if (!y5_tensors_append(&layers->tensors, &object, 1)) {
        return Y5_NO_MEMORY;
    }
    y5_status status = Y5_OK;
    bool failed = false;
    y5_loan *loan = &layers->tensors.loans[layers->tensors.count - 1];
    if (!y5_is_plain_tensor(state, object)) {
        status = y5_fail(error, Y5_UNSUPPORTED, "", "a subclass of torch.Tensor, or no tensor");
    } else {
        status = y5_borrow_anywhere(state, object, tensor, loan, error);
    }
    if (status == Y5_OK) {
        status = y5_place_add(state, &layers->place, object, tensor, loan, error);
    }
    const char *reason = status == Y5_OK ? refusal(state, object, tensor, &failed) : NULL;
    if (failed) {
        return Y5_PYTHON_RAISED;
    }
    if (reason != NULL) {
        status = y5_fail(error, Y5_UNSUPPORTED, "", "%s", reason);
    }
    if (status != Y5_OK) {
        snprintf(error->argument, sizeof(error->argument), "%s %lld", which,
                 (long long)layers->count - 1);
    }
    return status;
}

static y5_status
add_layer(const y5_state *state, PyObject *weights, PyObject *pruned, PyObject *count,
          y5_layers *layers, y5_error *error)
{
    long long at = layers->count++;
    y5_tensor tensor = {0};
    y5_tensor result = {0};
    y5_status status = borrow(state, weights, "weight", layers, &tensor, error);
    if (status != Y5_OK) {
        return status;
    }
    long long wanted = PyLong_Check(count) ? PyLong_AsLongLong(count) : -1;
    if (wanted < 0 || wanted > tensor.numel) {
        PyErr_Clear();
        return y5_fail(error, Y5_BAD_VALUE, "counts", "layer %lld: allowed are integers 0 to %lld",
                       at, (long long)tensor.numel);
    }
    layers->items[at] = (y5_prune_layer){
        .weights = tensor.data, .numel = tensor.numel, .count = wanted, .dtype = tensor.dtype};
    layers->bytes += PASSES * tensor.numel * (int64_t)y5_dtype_bytes(tensor.dtype);
    if (pruned == NULL) {
        return Y5_OK;
    }
    status = borrow(state, pruned, "pruned", layers, &result, error);
    if (status == Y5_OK && (result.dtype != tensor.dtype || result.numel != tensor.numel)) {
        status = y5_fail(error, Y5_BAD_VALUE, "pruned", "layer %lld: not like the weight", at);
    }
    layers->items[at].pruned = status == Y5_OK ? result.data : NULL;
    return status;
}

/* Entry `at` of each of the lists weights, pruned (or None) and counts, which another thread may
 * have shortened. */
static y5_status
add_layer_at(const y5_state *state, PyObject *const lists[3], Py_ssize_t at, y5_layers *layers,
             y5_error *error)
{
    PyObject *entries[3] = {NULL, NULL, NULL};
    y5_status status = Y5_OK;
    for (int32_t i = 0; i < 3 && status == Y5_OK; i++) {
        bool absent = i == 1 && lists[i] == Py_None;
        entries[i] = absent ? NULL : PyList_GetItem(lists[i], at);
        Py_XINCREF(entries[i]);
        status = entries[i] != NULL || absent ? Y5_OK : Y5_PYTHON_RAISED;
    }
    if (status == Y5_OK) {
        status = add_layer(state, entries[0], entries[1], entries[2], layers, error);
    }
    for (int32_t i = 0; i < 3; i++) {
        Py_XDECREF(entries[i]);
    }
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
    if (layers->items == NULL) {
        return Y5_NO_MEMORY;
    }
    PyObject *const lists[3] = {weights, pruned, counts};
    y5_status status = Y5_OK;
    int collecting = PyGC_Disable(); /* else finalizers could replace what was borrowed */
    for (Py_ssize_t i = 0; status == Y5_OK && i < count; i++) {
        status = add_layer_at(state, lists, i, layers, error);
    }
    if (collecting) {
        PyGC_Enable();
    }
    return status == Y5_OK ? y5_place_open(state, &layers->place, error) : status;
}

void
y5_layers_free(y5_layers *layers)
{
    y5_tensors_free(&layers->tensors);
    PyMem_Free(layers->items);
    *layers = (y5_layers){0};
}
