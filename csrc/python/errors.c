/* Status to exception type. The sentence was written where the fault was found. */
#include "python/errors.h"

PyObject *
y5_raise(const y5_state *state, y5_status status, const y5_error *error)
{
    PyObject *type = NULL;
    switch (status) {
    case Y5_UNSUPPORTED:
        type = state->unsupported;
        break;
    case Y5_BAD_TYPE:
        type = PyExc_TypeError;
        break;
    case Y5_BAD_VALUE:
        type = PyExc_ValueError;
        break;
    case Y5_BAD_BUFFER:
        type = PyExc_BufferError;
        break;
    case Y5_DEVICE_FAILED:
        type = PyExc_RuntimeError;
        break;
    case Y5_NO_MEMORY:
        return PyErr_NoMemory();
    case Y5_OK:
    case Y5_PYTHON_RAISED:
        return NULL;
    }
    if (error->argument[0] != '\0') {
        PyErr_Format(type, "%s: %s", error->argument, error->message);
    } else {
        PyErr_Format(type, "%s",
                     error->message); /* unlike SetString, takes text cut in a character */
    }
    return NULL;
}
