/* Asks torch's guards, and the processor. */
#include "python/environment.h"

#include "core/levels.h"
#include "python/borrowed.h"

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

y5_status
y5_check_environment(const y5_state *state, y5_error *error)
{
    PyObject *guards = state->torch.guards;
    if (guards == NULL) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "register_torch() was not called");
    }
    y5_status status = Y5_OK;
    Py_INCREF(guards); /* a guard may register torch again */
    for (Py_ssize_t i = 0; i < PyTuple_Size(guards) && status == Y5_OK; i++) {
        status = ask(PyTuple_GetItem(guards, i), error);
    }
    Py_DECREF(guards);
    if (status == Y5_OK && y5_flushes_subnormals()) {
        status = y5_fail(error, Y5_UNSUPPORTED, "", "subnormal numbers are flushed to zero");
    }
    return status;
}
