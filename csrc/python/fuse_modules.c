/* Reads convolutions and batch norms as the original does, attribute by attribute; and makes
 * modules without their constructor, which would fill the weight with random numbers first. */
#include "python/fuse_modules.h"

#include "python/borrowed.h"
#include "python/errors.h"

#include <string.h>

bool
y5_owner_open(const y5_state *state, PyObject *object, const PyTypeObject *plain, y5_owner *opened)
{
    opened->object = object;
    if (Py_TYPE(object) != plain) {
        return true;
    }
    opened->members = PyObject_GenericGetDict(object, NULL);
    for (int32_t i = 0; i < 2 && opened->members != NULL; i++) {
        PyObject *entries = y5_dict_get(opened->members, state->names[Y5_NAME_PARAMETERS + i]);
        if (entries != NULL && !PyDict_Check(entries)) {
            Py_CLEAR(entries);
        }
        opened->tensors[i] = entries;
    }
    return PyErr_Occurred() == NULL;
}

PyObject *
y5_owner_get(const y5_owner *from, PyObject *name)
{
    PyObject *const places[] = {from->members, from->tensors[0], from->tensors[1]};
    for (int32_t i = 0; i < 3; i++) {
        PyObject *found = places[i] != NULL ? y5_dict_get(places[i], name) : NULL;
        if (found != NULL || PyErr_Occurred()) {
            return found;
        }
    }
    return PyObject_GetAttr(from->object, name);
}

void
y5_owner_close(y5_owner *opened)
{
    Py_CLEAR(opened->tensors[0]);
    Py_CLEAR(opened->tensors[1]);
    Py_CLEAR(opened->members);
}

y5_status
y5_attribute_missing(y5_error *error)
{
    if (PyErr_Occurred() != PyExc_AttributeError) {
        return Y5_PYTHON_RAISED;
    }
    return y5_exception_says("attribute")
               ? y5_fail(error, Y5_UNSUPPORTED, "", "an attribute is missing")
               : Y5_PYTHON_RAISED;
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
read_shape(PyObject *const *fields, int64_t shape[4])
{
    int64_t in_channels = 0;
    int64_t groups = 0;
    int64_t unused[2];
    if (!read_integer(fields[Y5_FIELD_IN_CHANNELS], &in_channels) ||
        !read_integer(fields[Y5_FIELD_OUT_CHANNELS], &shape[0]) ||
        !read_integer(fields[Y5_FIELD_GROUPS], &groups) ||
        !read_pair(fields[Y5_FIELD_KERNEL_SIZE], 1, shape + 2) ||
        !read_pair(fields[Y5_FIELD_STRIDE], 1, unused) ||
        !read_pair(fields[Y5_FIELD_DILATION], 1, unused) ||
        !(PyUnicode_CheckExact(fields[Y5_FIELD_PADDING]) ||
          read_pair(fields[Y5_FIELD_PADDING], 0, unused))) {
        return false;
    }
    shape[1] = in_channels / groups;
    return in_channels % groups == 0 && shape[0] % groups == 0;
}

y5_status
y5_fuse_module_read(const y5_state *state, const y5_owner *conv, y5_fuse_module *self,
                    int64_t shape[4], y5_error *error)
{
    for (int32_t i = 0; i < Y5_FIELD_COUNT; i++) {
        self->fields[i] = y5_owner_get(conv, state->names[Y5_NAME_IN_CHANNELS + i]);
        if (self->fields[i] == NULL) {
            return y5_attribute_missing(error);
        }
    }
    return read_shape(self->fields, shape)
               ? Y5_OK
               : y5_fail(error, Y5_UNSUPPORTED, "conv", "sizes that no constructor leaves");
}

void
y5_fuse_module_free(y5_fuse_module *self)
{
    for (int32_t i = 0; i < Y5_FIELD_COUNT; i++) {
        Py_CLEAR(self->fields[i]);
    }
}

/* Makes the fused weight and bias parameters, without gradient as they are, in `parameters`, a new
 * dict. Their class is set, as torch sets that of an UninitializedParameter: nobody else has seen
 * them, and a second tensor for each (nn.Parameter's way) would take longer than the arithmetic. */
static bool
fill_parameters(const y5_state *state, PyObject *const tensors[2], PyObject *parameters)
{
    static const int32_t names[2] = {Y5_NAME_WEIGHT, Y5_NAME_BIAS};
    PyObject *type = (PyObject *)state->torch.parameter_type;
    for (int32_t i = 0; i < 2; i++) {
        if (PyObject_SetAttr(tensors[i], state->names[Y5_NAME_CLASS], type) < 0 ||
            PyObject_SetItem(parameters, state->names[names[i]], tensors[i]) < 0) {
            return false;
        }
    }
    return true;
}

/* The padding of both sides, last dimension first, as nn.Conv2d keeps it: (w, w, h, h). */
static PyObject *
make_reversed_padding(PyObject *padding)
{
    if (!PyTuple_Check(padding)) {
        PyErr_Format(PyExc_ValueError, "pattern: made for another padding than %R", padding);
        return NULL;
    }
    PyObject *height = PyTuple_GetItem(padding, 0);
    PyObject *width = PyTuple_GetItem(padding, 1);
    return PyTuple_Pack(4, width, width, height, height);
}

/* Another tuple of the same items. */
static PyObject *
copy_tuple(PyObject *value)
{
    PyObject *items = PySequence_List(value);
    PyObject *copy = items != NULL ? PyList_AsTuple(items) : NULL;
    Py_XDECREF(items);
    return copy;
}

/* What an entry of the pattern stands for, as a new reference. */
static PyObject *
make_member(const y5_state *state, PyObject *const *fields, PyObject *const tensors[2], long kind,
            PyObject *value)
{
    PyObject *made = NULL;
    switch (kind) {
    case Y5_MEMBER_CONSTANT:
        Py_INCREF(value);
        return value;
    case Y5_MEMBER_NEW:
        return PyObject_CallNoArgs(value);
    case Y5_MEMBER_PARAMETERS:
        made = PyObject_CallNoArgs(value);
        if (made != NULL && !fill_parameters(state, tensors, made)) {
            Py_CLEAR(made);
        }
        return made;
    case Y5_MEMBER_REVERSED_PADDING:
        return make_reversed_padding(fields[Y5_FIELD_PADDING]);
    case Y5_MEMBER_COPY:
        return copy_tuple(value);
    default:
        break;
    }
    if (kind < Y5_MEMBER_FIELD || kind >= Y5_MEMBER_FIELD + Y5_FIELD_COUNT) {
        PyErr_Format(PyExc_ValueError, "pattern: kind %ld is not known", kind);
        return NULL;
    }
    Py_INCREF(fields[kind - Y5_MEMBER_FIELD]);
    return fields[kind - Y5_MEMBER_FIELD];
}

/* Fills the __dict__ of a new module. */
static bool
fill_members(const y5_state *state, PyObject *const *fields, PyObject *const tensors[2],
             PyObject *pattern, PyObject *members)
{
    Py_ssize_t count = PyTuple_Size(pattern);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *entry = PyTuple_GetItem(pattern, i);
        if (!PyTuple_Check(entry) || PyTuple_Size(entry) != 3) {
            PyErr_SetString(PyExc_TypeError, "pattern: expected tuples of three");
            return false;
        }
        long kind = PyLong_AsLong(PyTuple_GetItem(entry, 1));
        if (kind == -1 && PyErr_Occurred()) {
            return false;
        }
        PyObject *member = make_member(state, fields, tensors, kind, PyTuple_GetItem(entry, 2));
        int failed =
            member != NULL ? PyDict_SetItem(members, PyTuple_GetItem(entry, 0), member) : -1;
        Py_XDECREF(member);
        if (failed < 0) {
            return false;
        }
    }
    return true;
}

PyObject *
y5_fuse_module_make(const y5_state *state, const y5_fuse_module *self, PyObject *const tensors[2],
                    PyObject *pattern)
{
    PyTypeObject *type = state->torch.convolution_type;
    newfunc make = (newfunc)PyType_GetSlot(type, Py_tp_new);
    PyObject *nothing = PyTuple_New(0);
    PyObject *module = nothing != NULL ? make(type, nothing, NULL) : NULL;
    PyObject *members = module != NULL ? PyObject_GenericGetDict(module, NULL) : NULL;
    if (members == NULL || !fill_members(state, self->fields, tensors, pattern, members)) {
        Py_CLEAR(module);
    }
    Py_XDECREF(members);
    Py_XDECREF(nothing);
    return module;
}
