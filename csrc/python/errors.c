/* Status to exception type. The sentence was written where the fault was found. */
#include "python/errors.h"

#include "python/borrowed.h"

#include <stdio.h>
#include <string.h>

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
    case Y5_SKIP:
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

void
y5_blame(y5_error *error, const char *argument)
{
    snprintf(error->argument, sizeof(error->argument), "%s", argument);
}

PyObject *
y5_text_of(PyObject *value)
{
    PyObject *text = value != NULL ? PyObject_Str(value) : NULL;
    PyObject *utf8 =
        text != NULL ? PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace") : NULL;
    Py_XDECREF(text);
    return utf8;
}

bool
y5_exception_says(const char *word)
{
    PyObject *type = NULL;
    PyObject *value = NULL;
    PyObject *traceback = NULL;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *utf8 = y5_text_of(value);
    const char *words = utf8 != NULL ? PyBytes_AsString(utf8) : NULL;
    bool says = words != NULL && strstr(words, word) != NULL;
    Py_XDECREF(utf8);
    if (!says && !PyErr_Occurred()) { /* else the text has raised another one */
        PyErr_Restore(type, value, traceback);
        return false;
    }
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return says;
}
