/* Reads convolutions and batch norms as the original does, attribute by attribute; and makes
 * modules without their constructor, which would fill the weight with random numbers first. */
#include "python/ops/fuse_module.h"

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
        if (entries == NULL && PyErr_Occurred()) {
            return false;
        }
        if (entries != NULL && !PyDict_Check(entries)) {
            Py_CLEAR(entries);
        }
        opened->tensors[i] = entries;
    }
    return opened->members != NULL;
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

PyObject *
y5_fuse_memory(const y5_state *state, const int64_t shape[4], int32_t ndim, PyObject *keywords)
{
    PyObject *sizes = ndim == 1 ? Py_BuildValue("(L)", (long long)shape[0])
                                : Py_BuildValue("(LLLL)", (long long)shape[0], (long long)shape[1],
                                                (long long)shape[2], (long long)shape[3]);
    PyObject *memory = sizes != NULL ? PyObject_Call(state->torch.empty, sizes, keywords) : NULL;
    Py_XDECREF(sizes);
    return memory;
}

/* What a new module has in place of the prototype's value: a new container, empty as that one is; a
 * tuple or list of its own, which a pickle shows. NULL, without an exception, for what is shared.
 */
static PyObject *
renew(const y5_state *state, PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);
    if (type == state->torch.ordered_dict_type) {
        return PyObject_CallNoArgs((PyObject *)type);
    }
    if (type == &PyDict_Type) {
        return PyDict_New();
    }
    if (type == &PySet_Type) {
        return PySet_New(NULL);
    }
    PyObject *list = type == &PyTuple_Type || type == &PyList_Type ? PySequence_List(value) : NULL;
    if (list == NULL || type == &PyList_Type) {
        return list;
    }
    PyObject *tuple = PyList_AsTuple(list);
    Py_DECREF(list);
    return tuple;
}

/* The members of a new module: what the prototype has. */
static PyObject *
copy_members(const y5_state *state, PyObject *given)
{
    PyObject *members = PyDict_Copy(given);
    Py_ssize_t position = 0;
    PyObject *name = NULL;
    PyObject *value = NULL;
    while (members != NULL && y5_dict_next(given, &position, &name, &value)) {
        PyObject *member = renew(state, value);
        if (member != NULL ? PyDict_SetItem(members, name, member) < 0 : PyErr_Occurred() != NULL) {
            Py_CLEAR(members);
        }
        Py_XDECREF(member);
        Py_DECREF(value);
        Py_DECREF(name);
    }
    return members;
}

/* The padding of both sides: the very object that the prototype has, or where it leaves that open,
 * last dimension first, as nn.Conv2d keeps it: (w, w, h, h). */
static bool
set_reversed_padding(const y5_state *state, PyObject *padding, PyObject *given, PyObject *members)
{
    PyObject *name = state->names[Y5_NAME_REVERSED_PADDING];
    PyObject *amounts = y5_dict_get(given, name);
    if (amounts == Py_None && !PyTuple_Check(padding)) {
        PyErr_Format(PyExc_ValueError, "prototype: made for another padding than %R", padding);
        Py_CLEAR(amounts);
    } else if (amounts == Py_None) {
        PyObject *height = PyTuple_GetItem(padding, 0);
        PyObject *width = PyTuple_GetItem(padding, 1);
        Py_DECREF(amounts);
        amounts = PyTuple_Pack(4, width, width, height, height);
    }
    bool set = amounts != NULL ? PyDict_SetItem(members, name, amounts) == 0 : !PyErr_Occurred();
    Py_XDECREF(amounts);
    return set;
}

/* Makes the fused weight and bias parameters, without gradient as they are. Their class is set, as
 * torch sets that of an UninitializedParameter: nobody else has seen them, and a second tensor for
 * each (nn.Parameter's way) would take longer than the arithmetic. */
static bool
set_parameters(const y5_state *state, PyObject *const tensors[2], PyObject *members)
{
    static const int32_t names[2] = {Y5_NAME_WEIGHT, Y5_NAME_BIAS};
    PyObject *type = (PyObject *)state->torch.parameter_type;
    PyObject *parameters = y5_dict_get(members, state->names[Y5_NAME_PARAMETERS]);
    bool set = parameters != NULL;
    if (!set && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "prototype: has no parameters");
    }
    for (int32_t i = 0; i < 2 && set; i++) {
        set = PyObject_SetAttr(tensors[i], state->names[Y5_NAME_CLASS], type) == 0 &&
              PyObject_SetItem(parameters, state->names[names[i]], tensors[i]) == 0;
    }
    Py_XDECREF(parameters);
    return set;
}

/* Gives the new members what is the result's own. */
static bool
fill_members(const y5_state *state, PyObject *const *fields, PyObject *const tensors[2],
             PyObject *given, PyObject *members)
{
    bool filled = true;
    for (int32_t i = 0; i < Y5_FIELD_COUNT && filled; i++) {
        filled = PyDict_SetItem(members, state->names[Y5_NAME_IN_CHANNELS + i], fields[i]) == 0;
    }
    return filled && set_reversed_padding(state, fields[Y5_FIELD_PADDING], given, members) &&
           set_parameters(state, tensors, members);
}

/* The members are set as an attribute: Python 3.13.0's PyObject_GenericSetDict leaves the module
 * looking at the empty place for members that it was made with. */
PyObject *
y5_fuse_module_make(const y5_state *state, const y5_fuse_module *self, PyObject *const tensors[2],
                    PyObject *prototype)
{
    PyTypeObject *type = state->torch.convolution_type;
    PyObject *name = state->names[Y5_NAME_DICT];
    newfunc make = (newfunc)PyType_GetSlot(type, Py_tp_new);
    PyObject *nothing = PyTuple_New(0);
    PyObject *module = nothing != NULL ? make(type, nothing, NULL) : NULL;
    PyObject *given = module != NULL ? PyObject_GenericGetDict(prototype, NULL) : NULL;
    PyObject *members = given != NULL ? copy_members(state, given) : NULL;
    if (members == NULL || !fill_members(state, self->fields, tensors, given, members) ||
        PyObject_GenericSetAttr(module, name, members) < 0) {
        Py_CLEAR(module);
    }
    Py_XDECREF(members);
    Py_XDECREF(given);
    Py_XDECREF(nothing);
    return module;
}
