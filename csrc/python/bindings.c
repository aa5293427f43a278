/* What is done for every call: its arguments are parsed, torch's guards and the processor are asked
 * whether C may do anything at all, and what went wrong is raised. */
#include "python/bindings.h"

#include "core/levels.h"
#include "python/borrowed.h"
#include "python/errors.h"

static Py_ssize_t
parameter_count(const y5_signature *signature)
{
    Py_ssize_t count = 0;
    while (signature->parameters[count] != NULL) {
        count++;
    }
    return count;
}

/* The index of the parameter of that name, or -1. */
static Py_ssize_t
parameter_index(const y5_signature *signature, PyObject *keyword)
{
    for (Py_ssize_t i = 0; signature->parameters[i] != NULL; i++) {
        if (PyUnicode_CompareWithASCIIString(keyword, signature->parameters[i]) == 0) {
            return i;
        }
    }
    return -1;
}

static bool
take_keywords(const char *name, const y5_signature *signature, PyObject *const *arguments,
              PyObject *keywords, PyObject **values)
{
    Py_ssize_t count = PyTuple_Size(keywords);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *keyword = PyTuple_GetItem(keywords, i);
        Py_ssize_t index = parameter_index(signature, keyword);
        if (index < 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", name,
                         keyword);
            return false;
        }
        if (values[index] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", name,
                         keyword);
            return false;
        }
        values[index] = arguments[i];
    }
    return true;
}

/* Fills `values`, which are NULL. False with TypeError set, worded as Python words it. */
static bool
parse(const char *name, const y5_signature *signature, PyObject *const *arguments,
      Py_ssize_t positional, PyObject *keywords, PyObject **values)
{
    Py_ssize_t count = parameter_count(signature);
    if (positional > count) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd positional arguments but %zd were given",
                     name, count, positional);
        return false;
    }
    for (Py_ssize_t i = 0; i < positional; i++) {
        values[i] = arguments[i];
    }
    if (keywords != NULL &&
        !take_keywords(name, signature, arguments + positional, keywords, values)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < signature->required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument '%s' (pos %zd)", name,
                         signature->parameters[i], i + 1);
            return false;
        }
    }
    return true;
}

/* Asks one of torch's guards. */
static y5_status
ask(PyObject *guard, y5_error *error)
{
    PyObject *function = NULL;
    const char *reason = NULL;
    if (!PyArg_ParseTuple(guard, "Os", &function, &reason)) {
        return Y5_PYTHON_RAISED;
    }
    PyObject *answer = PyObject_CallNoArgs(function);
    int active = answer != NULL ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return active == 0  ? Y5_OK
           : active < 0 ? Y5_PYTHON_RAISED
                        : y5_fail(error, Y5_UNSUPPORTED, "", "%s", reason);
}

/* Y5_UNSUPPORTED where torch operations would not do just what they do by default: then they have
 * to be the ones that run. */
static y5_status
check_environment(const y5_state *state, y5_error *error)
{
    PyObject *guards = state->torch.guards;
    if (guards == NULL) {
        return y5_fail(error, Y5_UNSUPPORTED, "", Y5_NOT_REGISTERED);
    }
    y5_status status = Y5_OK;
    Py_INCREF(guards); /* a guard may register torch again */
    for (Py_ssize_t i = 0; i < PyTuple_Size(guards) && status == Y5_OK; i++) {
        status = ask(PyTuple_GetItem(guards, i), error);
    }
    Py_DECREF(guards);
    if (status == Y5_OK && y5_float_state_get() != 0) { /* torch's kernels obey it here and there */
        status = y5_fail(error, Y5_UNSUPPORTED, "",
                         "subnormal numbers are flushed to zero, or rounding is not to nearest");
    }
    return status;
}

PyObject *
y5_enter(y5_state *state, const char *name, const y5_signature *signature, y5_binding *function,
         PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    PyObject *values[Y5_MAX_ARGUMENTS] = {NULL};
    PyObject *result = NULL;
    y5_error error = {0};
    if (!parse(name, signature, arguments, count, keywords, values)) {
        return NULL;
    }
    y5_status status = signature->guarded ? check_environment(state, &error) : Y5_OK;
    if (status == Y5_OK) {
        status = function(state, values, &result, &error);
    }
    if (status != Y5_OK) {
        return y5_raise(state, status, &error);
    }
    if (result == NULL) {
        Py_RETURN_NONE;
    }
    return result;
}

y5_status
y5_give(PyObject *made, PyObject **result)
{
    *result = made;
    return made != NULL ? Y5_OK : Y5_PYTHON_RAISED;
}
