/* What torch is asked of a tensor, and what its refusals mean. Knows nothing of tensors' memory. */
#include "python/questions.h"

#include "python/borrowed.h"
#include "python/errors.h"

#include <stdio.h>
#include <string.h>

/* The types of torch's refusals; subclasses, such as that of a full GPU, are something else. */
static bool
is_refusal(const PyObject *type)
{
    return type == PyExc_RuntimeError || type == PyExc_NotImplementedError ||
           type == PyExc_TypeError || type == PyExc_ValueError || type == PyExc_BufferError;
}

y5_status
y5_refused(y5_error *error)
{
    char by[64];
    snprintf(by, sizeof(by), "%.60s", error->message);
    if (!is_refusal(PyErr_Occurred())) {
        return Y5_PYTHON_RAISED;
    }
    PyObject *type = NULL;
    PyObject *value = NULL;
    PyObject *traceback = NULL;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *utf8 = y5_text_of(value);
    const char *words = utf8 != NULL ? PyBytes_AsString(utf8) : "no reason given";
    /* The first line says it; torch appends C++ locations. */
    y5_fail(error, Y5_UNSUPPORTED, "", "%s refused it: %.*s", by, (int)strcspn(words, "\n"), words);
    Py_XDECREF(utf8);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return PyErr_Occurred() ? Y5_PYTHON_RAISED : Y5_UNSUPPORTED; /* the text may raise, too */
}

y5_status
y5_raised_by(const char *by, y5_error *error)
{
    return y5_fail(error, Y5_PYTHON_RAISED, "", "%s", by);
}

y5_status
y5_call_torch(PyObject *function, PyObject *argument, const char *by, y5_error *error)
{
    if (function == NULL) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "this torch has no %s of its own", by);
    }
    PyObject *result = (PyObject_CallFunctionObjArgs)(function, argument, NULL);
    Py_DecRef(result);
    return result != NULL ? Y5_OK : y5_raised_by(by, error);
}

int
y5_is_floating(const y5_state *state, PyObject *tensor)
{
    PyObject *dtype = PyObject_GetAttr(tensor, state->names[Y5_NAME_DTYPE]);
    PyObject *answer =
        dtype != NULL ? PyObject_GetAttr(dtype, state->names[Y5_NAME_IS_FLOATING_POINT]) : NULL;
    int floating = answer != NULL ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    Py_XDECREF(dtype);
    return floating;
}

int
y5_has_fewer_bits(const y5_state *state, PyObject *object)
{
    PyObject *dtype = PyObject_GetAttr(object, state->names[Y5_NAME_DTYPE]);
    int whole = dtype != NULL ? PySequence_Contains(state->torch.byte_types, dtype) : -1;
    Py_XDECREF(dtype);
    return whole < 0 ? -1 : !whole;
}

int
y5_is_negated(const y5_state *state, PyObject *object)
{
    if (state->torch.is_neg == NULL) {
        return 0; /* torch before 1.10 */
    }
    PyObject *answer = PyObject_CallFunctionObjArgs(state->torch.is_neg, object, NULL);
    int negated = answer == NULL ? -1 : answer == Py_True;
    Py_XDECREF(answer);
    return negated;
}

PyObject *
y5_storage_of(const y5_state *state, PyObject *object)
{
    return (PyObject_CallFunctionObjArgs)(state->torch.untyped_storage, object, NULL);
}

int
y5_storage_is_gone(const y5_state *state, PyObject *object)
{
    PyObject *offset = PyObject_CallFunctionObjArgs(state->torch.storage_offset, object, NULL);
    long long start = offset != NULL ? PyLong_AsLongLong(offset) : -1;
    Py_XDECREF(offset);
    if (start <= 0) { /* the address of an empty storage itself is NULL */
        return PyErr_Occurred() ? -1 : 0;
    }
    if (state->torch.untyped_storage == NULL) {
        return 0; /* torch before 2.0 */
    }
    PyObject *made = PyObject_CallFunctionObjArgs(state->torch.untyped_storage, object, NULL);
    PyObject *nbytes = made != NULL ? PyObject_GetAttr(made, state->names[Y5_NAME_NBYTES]) : NULL;
    PyObject *count = nbytes != NULL ? PyObject_CallNoArgs(nbytes) : NULL;
    long long left = count != NULL ? PyLong_AsLongLong(count) : -1;
    Py_XDECREF(count);
    Py_XDECREF(nbytes);
    Py_XDECREF(made);
    return PyErr_Occurred() ? -1 : left == 0;
}

y5_status
y5_raise_version(const y5_state *state, PyObject *object, y5_error *error)
{
    /* tensor.detach().as_strided((0,), (1,)).zero_(), which shares the tensor's version */
    PyObject *methods = state->torch.version_methods;
    PyObject *detached = PyObject_CallFunctionObjArgs(PyTuple_GetItem(methods, 0), object, NULL);
    PyObject *view = detached != NULL ? PyObject_CallFunction(PyTuple_GetItem(methods, 1),
                                                              "O(i)(i)", detached, 0, 1)
                                      : NULL;
    PyObject *result =
        view != NULL ? PyObject_CallFunctionObjArgs(PyTuple_GetItem(methods, 2), view, NULL) : NULL;
    Py_XDECREF(result);
    Py_XDECREF(view);
    Py_XDECREF(detached);
    return result != NULL ? Y5_OK : y5_raised_by(Y5_VERSION_COUNTER, error);
}
