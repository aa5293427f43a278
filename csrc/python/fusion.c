/* Reads convolutions and batch norms as the original does, attribute by attribute, and checks all
 * of it before anything is computed. The only memory written is the result's own. */
#include "python/fusion.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Bytes moved per byte of the weight: read once, written once. */
#define PASSES 2

/* The tensors of a pair in the list of inputs. */
enum { WEIGHT, SCALE, SHIFT, MEAN, VARIANCE, CONV_BIAS };

/* A module whose attributes are looked up where nn.Module keeps them, or, with `members` NULL, in
 * the way any object's are. */
typedef struct {
    PyObject *object;
    PyObject *members;
    PyObject *tensors[2]; /* of the members: parameters and buffers, borrowed; NULL for no dict */
} owner;

static owner
open_owner(const y5_state *state, PyObject *object, const PyTypeObject *plain)
{
    owner opened = {
        object, Py_TYPE(object) == plain ? PyObject_GenericGetDict(object, NULL) : NULL, {NULL}};
    for (int32_t i = 0; i < 2 && opened.members != NULL; i++) {
        PyObject *entries =
            PyDict_GetItemWithError(opened.members, state->names[Y5_NAME_PARAMETERS + i]);
        opened.tensors[i] = entries != NULL && PyDict_Check(entries) ? entries : NULL;
    }
    PyErr_Clear();
    return opened;
}

/* owner.name as a new reference, or NULL with an exception. */
static PyObject *
get(const owner *from, PyObject *name)
{
    PyObject *found = from->members != NULL ? PyDict_GetItemWithError(from->members, name) : NULL;
    for (int32_t i = 0; i < 2 && found == NULL; i++) {
        if (from->tensors[i] != NULL) {
            found = PyDict_GetItemWithError(from->tensors[i], name);
        }
    }
    if (found != NULL) {
        Py_INCREF(found);
        return found;
    }
    PyErr_Clear();
    return PyObject_GetAttr(from->object, name);
}

/* Appends owner.name to the inputs. Any failure is the original's to report. */
static y5_status
take_tensor(const y5_state *state, const owner *from, int32_t name, const char *argument,
            y5_fusion *fusion, y5_error *error)
{
    PyObject *tensor = get(from, state->names[name]);
    y5_status status = Y5_OK;
    if (tensor == NULL) {
        status = y5_refused(error, "an attribute");
    } else if (!y5_is_plain_tensor(state, tensor)) {
        status = y5_fail(error, Y5_UNSUPPORTED, "", "a subclass of torch.Tensor, or no tensor");
    } else if (!y5_tensors_append(&fusion->inputs, &tensor, 1)) {
        status = Y5_NO_MEMORY;
    }
    Py_XDECREF(tensor);
    if (status != Y5_OK) {
        snprintf(error->argument, sizeof(error->argument), "%s", argument);
    }
    return status;
}

/* Two integers that fit where the constructor of nn.Conv2d would leave the tuple as it is. */
static bool
read_pair(PyObject *given, int64_t least, int64_t values[2])
{
    if (!PyTuple_CheckExact(given) || PyTuple_Size(given) != 2) {
        return false;
    }
    for (Py_ssize_t i = 0; i < 2; i++) {
        PyObject *item = PyTuple_GetItem(given, i);
        int overflow = 0;
        values[i] = PyLong_CheckExact(item) ? PyLong_AsLongLongAndOverflow(item, &overflow) : -1;
        if (overflow != 0 || values[i] < least || values[i] > INT32_MAX) {
            return false;
        }
    }
    return true;
}

static bool
read_integer(PyObject *given, int64_t *value)
{
    int overflow = 0;
    *value = PyLong_CheckExact(given) ? PyLong_AsLongLongAndOverflow(given, &overflow) : 0;
    return overflow == 0 && *value > 0 && *value <= INT32_MAX;
}

/* True for fields that nn.Conv2d's constructor would leave as they are; they state the weight's
 * shape. */
static bool
read_shape(y5_fusion_pair *pair)
{
    PyObject *const *fields = pair->fields;
    int64_t in_channels = 0;
    int64_t groups = 0;
    int64_t unused[2];
    if (!read_integer(fields[Y5_FIELD_IN_CHANNELS], &in_channels) ||
        !read_integer(fields[Y5_FIELD_OUT_CHANNELS], &pair->shape[0]) ||
        !read_integer(fields[Y5_FIELD_GROUPS], &groups) ||
        !read_pair(fields[Y5_FIELD_KERNEL_SIZE], 1, pair->shape + 2) ||
        !read_pair(fields[Y5_FIELD_STRIDE], 1, unused) ||
        !read_pair(fields[Y5_FIELD_DILATION], 1, unused) ||
        !(PyUnicode_CheckExact(fields[Y5_FIELD_PADDING]) ||
          read_pair(fields[Y5_FIELD_PADDING], 0, unused))) {
        return false;
    }
    pair->shape[1] = in_channels / groups;
    return in_channels % groups == 0 && pair->shape[0] % groups == 0;
}

static y5_status
read_eps(const y5_state *state, const owner *bn, double *eps, y5_error *error)
{
    PyObject *given = get(bn, state->names[Y5_NAME_EPS]);
    if (given == NULL) {
        return y5_refused(error, "an attribute");
    }
    bool valid = PyFloat_CheckExact(given);
    *eps = valid ? PyFloat_AsDouble(given) : 0;
    Py_DECREF(given);
    if (!valid || (fabs(*eps) > (double)FLT_MAX && !isinf(*eps))) {
        return y5_fail(error, Y5_UNSUPPORTED, "bn.eps", "not a Python float within float32");
    }
    return Y5_OK;
}

static y5_status
take_attributes(const y5_state *state, const owner *conv, const owner *bn, y5_fusion *fusion,
                y5_error *error)
{
    static const struct {
        bool of_conv;
        int32_t name;
        const char *argument;
    } tensors[] = {
        [WEIGHT] = {true, Y5_NAME_WEIGHT, "conv.weight"},
        [SCALE] = {false, Y5_NAME_WEIGHT, "bn.weight"},
        [SHIFT] = {false, Y5_NAME_BIAS, "bn.bias"},
        [MEAN] = {false, Y5_NAME_RUNNING_MEAN, "bn.running_mean"},
        [VARIANCE] = {false, Y5_NAME_RUNNING_VAR, "bn.running_var"},
    };
    y5_fusion_pair *pair = &fusion->pairs[fusion->count - 1];
    y5_fuse_pair *item = &fusion->items[fusion->count - 1];
    for (int32_t i = 0; i < Y5_FIELD_COUNT; i++) {
        pair->fields[i] = get(conv, state->names[Y5_NAME_IN_CHANNELS + i]);
        if (pair->fields[i] == NULL) {
            return y5_refused(error, "an attribute of the convolution");
        }
    }
    y5_status status = read_eps(state, bn, &item->eps, error);
    for (size_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]) && status == Y5_OK; i++) {
        status = take_tensor(state, tensors[i].of_conv ? conv : bn, tensors[i].name,
                             tensors[i].argument, fusion, error);
    }
    if (status != Y5_OK) {
        return status;
    }
    PyObject *bias = get(conv, state->names[Y5_NAME_BIAS]);
    pair->has_bias = bias != Py_None;
    Py_XDECREF(bias); /* NULL takes the next branch, which reports it */
    return pair->has_bias ? take_tensor(state, conv, Y5_NAME_BIAS, "conv.bias", fusion, error)
                          : Y5_OK;
}

/* Y5_UNSUPPORTED where autograd would record the original's operations. */
static y5_status
check_gradients(const y5_state *state, const y5_fusion *fusion, y5_error *error)
{
    PyObject *enabled = PyObject_CallNoArgs(state->torch.is_grad_enabled);
    Py_XDECREF(enabled); /* True and False outlive it */
    if (enabled != Py_True) {
        return enabled == NULL ? Y5_PYTHON_RAISED : Y5_OK;
    }
    for (int64_t i = fusion->pairs[fusion->count - 1].inputs; i < fusion->inputs.count; i++) {
        PyObject *wanted =
            PyObject_GetAttr(fusion->inputs.objects[i], state->names[Y5_NAME_REQUIRES_GRAD]);
        Py_XDECREF(wanted);
        if (wanted != Py_False) {
            return wanted == NULL
                       ? Y5_PYTHON_RAISED
                       : y5_fail(error, Y5_UNSUPPORTED, "", "a gradient is wanted of the result");
        }
    }
    return Y5_OK;
}

/* Borrows a tensor and checks that C can read or write it. Only one that was given can be other
 * than what lies in its memory. */
static y5_status
borrow(const y5_state *state, y5_tensors *tensors, int64_t at, bool given, y5_tensor *tensor,
       y5_error *error)
{
    y5_return(&tensors->loans[at]); /* of an earlier look */
    y5_status status = y5_borrow(state, tensors->objects[at], tensor, &tensors->loans[at], error);
    if (status != Y5_OK) {
        return status;
    }
    if (tensor->dtype >= Y5_FLOATING_COUNT) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "not of a floating type known here");
    }
    if ((uintptr_t)tensor->data % y5_dtype_bytes(tensor->dtype) != 0) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "elements are not aligned to their size");
    }
    int negated = given ? y5_is_negated(state, tensors->objects[at], tensor) : 0;
    if (negated != 0) {
        return negated < 0 ? Y5_PYTHON_RAISED
                           : y5_fail(error, Y5_UNSUPPORTED, "", "a negative bit is set");
    }
    return Y5_OK;
}

/* A vector of `rows` elements without gaps, of the given type. */
static y5_status
borrow_vector(const y5_state *state, y5_fusion *fusion, bool given, int64_t at,
              const y5_fuse_pair *item, y5_dtype dtype, void **data, y5_error *error)
{
    y5_tensor tensor = {0};
    y5_tensors *tensors = given ? &fusion->inputs : &fusion->outputs;
    y5_status status = borrow(state, tensors, at, given, &tensor, error);
    if (status == Y5_OK &&
        (tensor.ndim != 1 || tensor.numel != item->rows || tensor.dtype != dtype ||
         (tensor.numel > 1 && tensor.strides[0] != 1))) {
        status = y5_fail(error, Y5_UNSUPPORTED, "",
                         "a batch norm or bias unlike the convolution in type or size, or gaps");
    }
    *data = tensor.data;
    return status;
}

/* Describes a weight that does not lie row after row. */
static const y5_fuse_layout *
layout_of(const y5_tensor *weight, y5_fuse_layout *layout)
{
    int64_t step = 1;
    bool plain = true;
    for (int32_t i = weight->ndim - 1; i >= 0; i--) {
        plain = plain && (weight->shape[i] == 1 || weight->strides[i] == step);
        step *= weight->shape[i];
    }
    if (plain) {
        return NULL;
    }
    layout->ndim = weight->ndim - 1;
    layout->row_stride = weight->strides[0];
    memcpy(layout->shape, weight->shape + 1, sizeof(int64_t) * (size_t)layout->ndim);
    memcpy(layout->strides, weight->strides + 1, sizeof(int64_t) * (size_t)layout->ndim);
    return layout;
}

/* The weight of pair `at`, which sets its type, rows and columns. */
static y5_status
borrow_weight(const y5_state *state, y5_fusion *fusion, int64_t at, y5_error *error)
{
    y5_fuse_pair *item = &fusion->items[at];
    const int64_t *shape = fusion->pairs[at].shape;
    int64_t first = fusion->pairs[at].inputs;
    y5_tensor weight = {0};
    y5_status status = borrow(state, &fusion->inputs, first + WEIGHT, true, &weight, error);
    if (status != Y5_OK) {
        return status;
    }
    if (weight.ndim != 4 || weight.numel == 0 || shape[0] < 1 ||
        memcmp(weight.shape, shape, sizeof(fusion->pairs[at].shape)) != 0) {
        return y5_fail(error, Y5_UNSUPPORTED, "conv.weight", "not of the shape that conv states");
    }
    item->weight = weight.data;
    item->layout = layout_of(&weight, &fusion->layouts[at]);
    item->dtype = weight.dtype;
    item->rows = shape[0];
    item->columns = weight.numel / shape[0];
    return Y5_OK;
}

/* All inputs of pair `at`. */
static y5_status
borrow_inputs(const y5_state *state, y5_fusion *fusion, int64_t at, y5_error *error)
{
    y5_fuse_pair *item = &fusion->items[at];
    int64_t first = fusion->pairs[at].inputs;
    y5_status status = borrow_weight(state, fusion, at, error);
    void *vectors[CONV_BIAS + 1] = {NULL};
    int64_t last = fusion->pairs[at].has_bias ? CONV_BIAS : VARIANCE;
    for (int64_t i = SCALE; i <= last && status == Y5_OK; i++) {
        status =
            borrow_vector(state, fusion, true, first + i, item, item->dtype, &vectors[i], error);
    }
    item->scale = vectors[SCALE];
    item->shift = vectors[SHIFT];
    item->mean = vectors[MEAN];
    item->variance = vectors[VARIANCE];
    item->conv_bias = vectors[CONV_BIAS];
    return status;
}

static y5_status
append_new(y5_fusion *fusion, PyObject *made, y5_error *error)
{
    if (made == NULL) {
        return y5_refused(error, "torch");
    }
    bool kept = y5_tensors_append(&fusion->outputs, &made, 1);
    Py_DECREF(made);
    return kept ? Y5_OK : Y5_NO_MEMORY;
}

/* torch.empty in the default dtype, as the original's constructor calls it; and where the inputs
 * have another type, one of theirs for the roots. Nobody else ever sees these before they are full:
 * their memory stays where it is. */
static y5_status
allocate(const y5_state *state, y5_fusion *fusion, int64_t at, y5_error *error)
{
    const y5_torch *torch = &state->torch;
    const y5_fusion_pair *pair = &fusion->pairs[at];
    y5_fuse_pair *item = &fusion->items[at];
    long long rows = pair->shape[0];
    int64_t first = fusion->outputs.count;
    y5_tensor weight = {0};
    PyObject *made = PyObject_CallFunction(torch->empty, "LLLL", rows, (long long)pair->shape[1],
                                           (long long)pair->shape[2], (long long)pair->shape[3]);
    y5_status status = append_new(fusion, made, error);
    if (status == Y5_OK) {
        status = append_new(fusion, PyObject_CallFunction(torch->empty, "L", rows), error);
    }
    if (status == Y5_OK) {
        status = borrow(state, &fusion->outputs, first + Y5_FUSED_WEIGHT, false, &weight, error);
    }
    if (status == Y5_OK && weight.dtype != Y5_FLOAT32 && weight.dtype != Y5_FLOAT64) {
        status = y5_fail(error, Y5_UNSUPPORTED, "", "default dtype is not float32 or float64");
    }
    item->fused_weight = weight.data;
    item->fused_dtype = weight.dtype;
    if (status == Y5_OK) {
        status = borrow_vector(state, fusion, false, first + Y5_FUSED_BIAS, item, weight.dtype,
                               &item->fused_bias, error);
    }
    if (status != Y5_OK) {
        return status;
    }
    if (item->dtype == item->fused_dtype) {
        item->roots = item->fused_bias;
        made = fusion->outputs.objects[first + Y5_FUSED_BIAS];
        return y5_tensors_append(&fusion->outputs, &made, 1) ? Y5_OK : Y5_NO_MEMORY;
    }
    PyObject *variance = fusion->inputs.objects[pair->inputs + VARIANCE];
    made = PyObject_CallFunctionObjArgs(torch->empty_like, variance, NULL);
    status = append_new(fusion, made, error);
    return status != Y5_OK ? status
                           : borrow_vector(state, fusion, false, first + Y5_ROOTS, item,
                                           item->dtype, &item->roots, error);
}

y5_status
y5_fusion_open(y5_fusion *fusion, int64_t count)
{
    size_t room = (size_t)count + 1; /* nothing asks for 0 bytes */
    fusion->items = PyMem_Calloc(room, sizeof(*fusion->items));
    fusion->layouts = PyMem_Calloc(room, sizeof(*fusion->layouts));
    fusion->pairs = PyMem_Calloc(room, sizeof(*fusion->pairs));
    fusion->starts = PyMem_Calloc(room, sizeof(*fusion->starts));
    return y5_tensors_reserve(&fusion->inputs, count * (CONV_BIAS + 1)) &&
                   y5_tensors_reserve(&fusion->outputs, count * Y5_OUTPUTS) &&
                   fusion->items != NULL && fusion->layouts != NULL && fusion->pairs != NULL &&
                   fusion->starts != NULL
               ? Y5_OK
               : Y5_NO_MEMORY;
}

y5_status
y5_fusion_add(const y5_state *state, PyObject *conv, PyObject *bn, y5_fusion *fusion,
              y5_error *error)
{
    if (!PyObject_TypeCheck(conv, state->torch.convolution_type)) {
        return y5_fail(error, Y5_UNSUPPORTED, "conv", "not an nn.Conv2d");
    }
    int64_t at = fusion->count++;
    y5_fusion_pair *pair = &fusion->pairs[at];
    pair->inputs = fusion->inputs.count;
    owner from[2] = {open_owner(state, conv, state->torch.convolution_type),
                     open_owner(state, bn, state->torch.batch_norm_type)};
    y5_status status = take_attributes(state, &from[0], &from[1], fusion, error);
    Py_XDECREF(from[0].members);
    Py_XDECREF(from[1].members);
    if (status == Y5_OK && !read_shape(pair)) {
        status = y5_fail(error, Y5_UNSUPPORTED, "conv", "sizes that no constructor leaves");
    }
    if (status == Y5_OK) {
        status = check_gradients(state, fusion, error);
    }
    if (status == Y5_OK) {
        status = borrow_weight(state, fusion, at, error);
    }
    if (status == Y5_OK) {
        status = allocate(state, fusion, at, error);
    }
    if (status == Y5_OK) {
        int64_t elements = fusion->items[at].rows * fusion->items[at].columns;
        fusion->starts[at + 1] = fusion->starts[at] + elements;
        fusion->bytes += PASSES * elements * (int64_t)y5_dtype_bytes(fusion->items[at].dtype);
    }
    return status;
}

y5_status
y5_fusion_take_roots(const y5_state *state, y5_fusion *fusion, y5_error *error)
{
    y5_status status = Y5_OK;
    for (int64_t i = 0; i < fusion->count && status == Y5_OK; i++) {
        y5_fuse_pair *item = &fusion->items[i];
        void *variance = NULL;
        status = borrow_vector(state, fusion, true, fusion->pairs[i].inputs + VARIANCE, item,
                               item->dtype, &variance, error);
        if (status != Y5_OK) {
            break;
        }
        item->variance = variance;
        y5_fuse_variances(item);
        PyObject *roots = fusion->outputs.objects[i * Y5_OUTPUTS + Y5_ROOTS];
        PyObject *same = PyObject_CallFunctionObjArgs(state->torch.sqrt_in_place, roots, NULL);
        status = same != NULL ? Y5_OK : y5_refused(error, "torch");
        Py_XDECREF(same);
    }
    return status;
}

y5_status
y5_fusion_borrow(const y5_state *state, y5_fusion *fusion, y5_error *error)
{
    y5_status status = Y5_OK;
    fusion->pinned = fusion->bytes >= atomic_load(&state->gil_bytes);
    if (fusion->pinned) {
        status = y5_tensors_pin(state, &fusion->inputs);
    }
    int collecting = PyGC_Disable(); /* else finalizers could replace what was borrowed */
    for (int64_t i = 0; i < fusion->count && status == Y5_OK; i++) {
        status = borrow_inputs(state, fusion, i, error);
    }
    if (collecting) {
        PyGC_Enable();
    }
    return status;
}

void
y5_fusion_free(y5_fusion *fusion)
{
    for (int64_t i = 0; i < fusion->count; i++) {
        for (int32_t field = 0; field < Y5_FIELD_COUNT; field++) {
            Py_XDECREF(fusion->pairs[i].fields[field]);
        }
    }
    y5_tensors_free(&fusion->inputs);
    y5_tensors_free(&fusion->outputs);
    PyMem_Free(fusion->items);
    PyMem_Free(fusion->layouts);
    PyMem_Free(fusion->pairs);
    PyMem_Free(fusion->starts);
}
