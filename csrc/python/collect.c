/* Visitors of the module walk: borrow each tensor, check it, append it. */
#include "python/collect.h"

#include "python/module_walk.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const y5_state *state;
    void *list;
} collector;

/* Fails with the entry's dotted key in front of a reason. */
static y5_status
refuse(y5_error *error, const y5_path *path, const char *reason)
{
    char key[sizeof(error->argument)];
    y5_path_text(path, key, sizeof(key));
    return y5_fail(error, Y5_UNSUPPORTED, key, "%s", reason);
}

/* The same for a reason that is in `error` already. */
static y5_status
refuse_again(y5_error *error, const y5_path *path)
{
    y5_path_text(path, error->argument, sizeof(error->argument));
    return Y5_UNSUPPORTED;
}

/* Reallocates a list of `capacity` elements; false without memory, the list then as it was. */
static bool
resize(void *list, int64_t capacity, size_t element)
{
    void *old = NULL;
    memcpy(&old, list, sizeof(old));
    void *grown = PyMem_Realloc(old, (size_t)capacity * element);
    if (grown == NULL) {
        return false;
    }
    memcpy(list, &grown, sizeof(grown));
    return true;
}

static bool
reserve_pair(y5_pairs *pairs)
{
    if (pairs->count < pairs->capacity) {
        return true;
    }
    int64_t capacity = pairs->capacity > 0 ? pairs->capacity * 2 : 512;
    if (!resize(&pairs->items, capacity, sizeof(*pairs->items)) ||
        !resize(&pairs->starts, capacity + 1, sizeof(*pairs->starts)) ||
        !resize(&pairs->objects, 2 * capacity, sizeof(*pairs->objects)) ||
        !resize(&pairs->loans, 2 * capacity, sizeof(*pairs->loans)) ||
        !resize(&pairs->ranges, 2 * capacity, sizeof(*pairs->ranges))) {
        return false;
    }
    if (pairs->capacity == 0) {
        pairs->starts[0] = 0;
    }
    pairs->capacity = capacity;
    return true;
}

/* tensor.dtype.is_floating_point, for a tensor that could not be borrowed. */
static bool
is_floating(const y5_state *state, PyObject *object)
{
    PyObject *dtype = PyObject_GetAttr(object, state->names[Y5_NAME_DTYPE]);
    PyObject *answer =
        dtype != NULL ? PyObject_GetAttr(dtype, state->names[Y5_NAME_IS_FLOATING_POINT]) : NULL;
    bool floating = answer != Py_False; /* what cannot be told is left to torch */
    Py_XDECREF(answer);
    Py_XDECREF(dtype);
    PyErr_Clear();
    return floating;
}

/* True where the values read are not those in memory. Only views torch makes of complex tensors
 * carry the bit, and those have gaps or one element. */
static bool
has_negative_bit(const y5_state *state, PyObject *object, const y5_tensor *tensor)
{
    if (tensor->numel != 1 && y5_tensor_is_dense(tensor)) {
        return false;
    }
    PyObject *method = PyObject_GetAttr(object, state->names[Y5_NAME_IS_NEG]);
    PyObject *answer = method != NULL ? PyObject_CallNoArgs(method) : NULL;
    bool negative = answer != Py_False;
    Py_XDECREF(answer);
    Py_XDECREF(method);
    PyErr_Clear();
    return negative;
}

static bool
is_half(y5_dtype dtype)
{
    return dtype == Y5_FLOAT16 || dtype == Y5_BFLOAT16;
}

static bool
same_shape(const y5_tensor *a, const y5_tensor *b)
{
    return a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof(a->shape[0])) == 0;
}

/* Why this pair cannot be updated with the original's bits, or NULL. */
static const char *
pair_refusal(const y5_state *state, PyObject *const objects[2], const y5_tensor tensors[2])
{
    if (tensors[1].dtype >= Y5_FLOATING_COUNT) {
        return "the model's tensor is not of a floating type known here";
    }
    if (!same_shape(&tensors[0], &tensors[1])) {
        return "shapes differ";
    }
    if (!state->torch.half_scalars_stay_float32 &&
        (is_half(tensors[0].dtype) || is_half(tensors[1].dtype))) {
        return "16-bit floats, and torch before 2.1 rounds them otherwise";
    }
    if (has_negative_bit(state, objects[0], &tensors[0]) ||
        has_negative_bit(state, objects[1], &tensors[1])) {
        return "a negative bit is set";
    }
    return NULL;
}

/* A layout for the pair where one is needed; false without memory or with `reason` set. */
static bool
add_layout(y5_ema_pair *pair, const y5_tensor tensors[2], const char **reason)
{
    if (y5_tensor_same_order(&tensors[0], &tensors[1]) && y5_tensor_is_dense(&tensors[0])) {
        return true;
    }
    y5_ema_layout *layout = PyMem_Calloc(1, sizeof(*layout));
    if (layout == NULL) {
        return false;
    }
    pair->layout = layout;
    if (!y5_ema_layout_of(layout, &tensors[0], &tensors[1])) {
        *reason = "elements of the average overlap each other";
        return false;
    }
    return true;
}

static y5_status
append_pair(const y5_state *state, y5_pairs *pairs, PyObject *const objects[2],
            const y5_tensor tensors[2], const y5_path *path, y5_error *error)
{
    const char *reason = pair_refusal(state, objects, tensors);
    if (reason != NULL) {
        return refuse(error, path, reason);
    }
    int64_t at = pairs->count;
    y5_ema_pair *pair = &pairs->items[at];
    *pair = (y5_ema_pair){
        .average = tensors[0].data,
        .source = tensors[1].data,
        .average_dtype = tensors[0].dtype,
        .source_dtype = tensors[1].dtype,
    };
    if (!add_layout(pair, tensors, &reason)) {
        PyMem_Free((void *)pair->layout);
        return reason != NULL ? refuse(error, path, reason) : Y5_NO_MEMORY;
    }
    for (int64_t side = 0; side < 2; side++) {
        y5_range *range = &pairs->ranges[2 * at + side];
        range->written = side == 0;
        y5_tensor_range(&tensors[side], &range->begin, &range->end);
        Py_INCREF(objects[side]);
        pairs->objects[2 * at + side] = objects[side];
    }
    pairs->starts[at + 1] = pairs->starts[at] + tensors[0].numel;
    pairs->bytes += tensors[0].numel * (int64_t)(2 * y5_dtype_bytes(tensors[0].dtype) +
                                                 y5_dtype_bytes(tensors[1].dtype));
    pairs->count++;
    return Y5_OK;
}

static y5_status
visit_pair(void *context, PyObject *average, PyObject *source, const y5_path *path, y5_error *error)
{
    const y5_state *state = ((collector *)context)->state;
    y5_pairs *pairs = ((collector *)context)->list;
    PyObject *const objects[2] = {average, source};
    y5_tensor tensors[2];
    if (!reserve_pair(pairs)) {
        return Y5_NO_MEMORY;
    }
    y5_loan *loans = &pairs->loans[2 * pairs->count];
    memset(loans, 0, 2 * sizeof(*loans));

    bool borrowed = y5_is_plain_tensor(state, average) &&
                    y5_borrow(state, average, &tensors[0], &loans[0], error) == Y5_OK;
    bool floating = borrowed ? tensors[0].dtype < Y5_FLOATING_COUNT : is_floating(state, average);
    y5_status status = Y5_OK;
    if (borrowed && (tensors[0].dtype == Y5_FLOAT8 || tensors[0].dtype == Y5_FLOAT8_FNUZ)) {
        status = refuse(error, path, "8-bit floats");
    } else if (!floating) {
        y5_return(&loans[0]);
        return Y5_OK; /* counters and other integers are never averaged */
    } else if (source == NULL) {
        char key[sizeof(error->message)];
        y5_path_text(path, key, sizeof(key));
        status = y5_fail(error, Y5_MISSING_KEY, "", "%s", key);
    } else if (!borrowed && y5_is_plain_tensor(state, average)) {
        status = refuse_again(error, path);
    } else if (!borrowed || !y5_is_plain_tensor(state, source)) {
        status = refuse(error, path, "a subclass of torch.Tensor, or no tensor");
    } else if (y5_borrow(state, source, &tensors[1], &loans[1], error) != Y5_OK) {
        status = refuse_again(error, path);
    } else {
        status = append_pair(state, pairs, objects, tensors, path, error);
    }
    if (status != Y5_OK) {
        y5_return(&loans[0]);
        y5_return(&loans[1]);
    }
    return status;
}

static y5_status
check_overlap(y5_pairs *pairs, y5_error *error)
{
    y5_range *scratch = PyMem_Malloc((size_t)(2 * pairs->count + 1) * sizeof(*scratch));
    if (scratch == NULL) {
        return Y5_NO_MEMORY;
    }
    y5_overlap overlap = y5_find_overlap(pairs->ranges, scratch, 2 * pairs->count);
    PyMem_Free(scratch);
    pairs->in_order = overlap == Y5_WRITTEN_TWICE;
    if (overlap == Y5_READ_WRITTEN) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "the average shares memory with the model");
    }
    return Y5_OK;
}

y5_status
y5_collect_pairs(const y5_state *state, PyObject *average, PyObject *source, y5_pairs *pairs,
                 y5_error *error)
{
    collector context = {state, pairs};
    y5_status status = y5_walk_states(state, average, source, visit_pair, &context, error);
    return status == Y5_OK && pairs->count > 0 ? check_overlap(pairs, error) : status;
}

y5_status
y5_bump_versions(const y5_state *state, const y5_pairs *pairs, y5_error *error)
{
    PyObject *list = PyList_New((Py_ssize_t)pairs->count);
    if (list == NULL) {
        return Y5_PYTHON_RAISED;
    }
    for (int64_t i = 0; i < pairs->count; i++) {
        Py_INCREF(pairs->objects[2 * i]);
        PyList_SetItem(list, (Py_ssize_t)i, pairs->objects[2 * i]);
    }
    PyObject *result = PyObject_CallFunctionObjArgs(state->torch.bump_versions, list, NULL);
    Py_DECREF(list);
    if (result == NULL) { /* torch before 2.3 refuses inference tensors here */
        PyErr_Clear();
        return y5_fail(error, Y5_UNSUPPORTED, "", "torch refuses a write to the average");
    }
    Py_DECREF(result);
    return Y5_OK;
}

void
y5_pairs_free(y5_pairs *pairs)
{
    for (int64_t i = 0; i < pairs->count; i++) {
        PyMem_Free((void *)pairs->items[i].layout);
        for (int64_t side = 0; side < 2; side++) {
            y5_return(&pairs->loans[2 * i + side]);
            Py_DECREF(pairs->objects[2 * i + side]);
        }
    }
    PyMem_Free(pairs->items);
    PyMem_Free(pairs->starts);
    PyMem_Free(pairs->objects);
    PyMem_Free(pairs->loans);
    PyMem_Free(pairs->ranges);
}

static bool
reserve_parameter(y5_parameters *parameters)
{
    if (parameters->count < parameters->capacity) {
        return true;
    }
    int64_t capacity = parameters->capacity > 0 ? parameters->capacity * 2 : 256;
    if (!resize(&parameters->items, capacity, sizeof(*parameters->items)) ||
        !resize(&parameters->starts, capacity + 1, sizeof(*parameters->starts)) ||
        !resize(&parameters->objects, capacity, sizeof(*parameters->objects)) ||
        !resize(&parameters->loans, capacity, sizeof(*parameters->loans))) {
        return false;
    }
    if (parameters->capacity == 0) {
        parameters->starts[0] = 0;
    }
    parameters->capacity = capacity;
    return true;
}

static y5_status
visit_parameter(void *context, PyObject *object, PyObject *counterpart, const y5_path *path,
                y5_error *error)
{
    (void)counterpart;
    const y5_state *state = ((collector *)context)->state;
    y5_parameters *parameters = ((collector *)context)->list;
    y5_tensor tensor;
    if (!reserve_parameter(parameters)) {
        return Y5_NO_MEMORY;
    }
    if (!y5_is_plain_tensor(state, object)) {
        return refuse(error, path, "a subclass of torch.Tensor, or no tensor");
    }
    int64_t at = parameters->count;
    y5_loan *loan = &parameters->loans[at];
    memset(loan, 0, sizeof(*loan));
    if (y5_borrow(state, object, &tensor, loan, error) != Y5_OK) {
        return refuse_again(error, path);
    }
    if (!y5_tensor_is_dense(&tensor)) {
        y5_return(loan);
        return refuse(error, path, "a parameter with gaps between its elements");
    }
    parameters->items[at].data = tensor.data;
    parameters->items[at].dtype = tensor.dtype;
    parameters->items[at].zeros = 0;
    parameters->starts[at + 1] = parameters->starts[at] + tensor.numel;
    parameters->bytes += tensor.numel * (int64_t)y5_dtype_bytes(tensor.dtype);
    Py_INCREF(object);
    parameters->objects[at] = object;
    parameters->count++;
    return Y5_OK;
}

y5_status
y5_collect_parameters(const y5_state *state, PyObject *module, y5_parameters *parameters,
                      y5_error *error)
{
    collector context = {state, parameters};
    return y5_walk_parameters(state, module, visit_parameter, &context, error);
}

void
y5_parameters_free(y5_parameters *parameters)
{
    for (int64_t i = 0; i < parameters->count; i++) {
        y5_return(&parameters->loans[i]);
        Py_DECREF(parameters->objects[i]);
    }
    PyMem_Free(parameters->items);
    PyMem_Free(parameters->starts);
    PyMem_Free(parameters->objects);
    PyMem_Free(parameters->loans);
}
