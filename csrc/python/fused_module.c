/* Makes modules without their constructor, which would fill the weight with random numbers first.
 */
#include "python/fused_module.h"

/* Makes the fused weight and bias parameters, without gradient as they are, in `parameters`, a new
 * dict. Their class is set, as torch sets that of an UninitializedParameter: nobody else has seen
 * them, and a second tensor for each (nn.Parameter's way) would take longer than the arithmetic. */
static bool
fill_parameters(const y5_state *state, const y5_fusion *fusion, int64_t at, PyObject *parameters)
{
    static const int32_t names[] = {
        [Y5_FUSED_WEIGHT] = Y5_NAME_WEIGHT, [Y5_FUSED_BIAS] = Y5_NAME_BIAS};
    PyObject *type = (PyObject *)state->torch.parameter_type;
    for (int32_t i = Y5_FUSED_WEIGHT; i <= Y5_FUSED_BIAS; i++) {
        PyObject *tensor = fusion->outputs.objects[at * Y5_OUTPUTS + i];
        if (PyObject_SetAttr(tensor, state->names[Y5_NAME_CLASS], type) < 0 ||
            PyObject_SetItem(parameters, state->names[names[i]], tensor) < 0) {
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

/* What an entry of the pattern stands for, as a new reference. */
static PyObject *
make_member(const y5_state *state, const y5_fusion *fusion, int64_t at, long kind, PyObject *value)
{
    PyObject *const *fields = fusion->pairs[at].fields;
    PyObject *made = NULL;
    switch (kind) {
    case Y5_MEMBER_CONSTANT:
        Py_INCREF(value);
        return value;
    case Y5_MEMBER_NEW:
        return PyObject_CallNoArgs(value);
    case Y5_MEMBER_PARAMETERS:
        made = PyObject_CallNoArgs(value);
        if (made != NULL && !fill_parameters(state, fusion, at, made)) {
            Py_CLEAR(made);
        }
        return made;
    case Y5_MEMBER_REVERSED_PADDING:
        return make_reversed_padding(fields[Y5_FIELD_PADDING]);
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
fill_members(const y5_state *state, const y5_fusion *fusion, int64_t at, PyObject *pattern,
             PyObject *members)
{
    Py_ssize_t count = PyTuple_Size(pattern);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *entry = PyTuple_GetItem(pattern, i);
        if (!PyTuple_Check(entry) || PyTuple_Size(entry) != 3) {
            PyErr_SetString(PyExc_TypeError, "pattern: expected tuples of three");
            return false;
        }
        long kind = PyLong_AsLong(PyTuple_GetItem(entry, 1)); /* -1 for no integer is no kind */
        PyObject *member = make_member(state, fusion, at, kind, PyTuple_GetItem(entry, 2));
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
y5_make_fused_module(const y5_state *state, const y5_fusion *fusion, int64_t at, PyObject *pattern)
{
    PyTypeObject *type = state->torch.convolution_type;
    newfunc make = (newfunc)PyType_GetSlot(type, Py_tp_new);
    PyObject *nothing = PyTuple_New(0);
    PyObject *module = nothing != NULL ? make(type, nothing, NULL) : NULL;
    PyObject *members = module != NULL ? PyObject_GenericGetDict(module, NULL) : NULL;
    if (members == NULL || !fill_members(state, fusion, at, pattern, members)) {
        Py_CLEAR(module);
    }
    Py_XDECREF(members);
    Py_XDECREF(nothing);
    return module;
}
