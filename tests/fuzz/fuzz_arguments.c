/* The parser of arguments against Python's own: a call of C and one of a Python function with the
 * same parameters get the same values, or both a TypeError. An interpreter is embedded. */
#include "python/bindings.h"

#include "fuzz.h"

#include <string.h>

#define MOST_NAMES 6

/* Gives back what it was given, `...` for what was left out. */
static y5_status
tell(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    (void)state;
    (void)error;
    PyObject *told = PyTuple_New(Y5_MAX_ARGUMENTS);
    for (Py_ssize_t i = 0; i < Y5_MAX_ARGUMENTS; i++) {
        PyObject *value = values[i] != NULL ? values[i] : Py_Ellipsis;
        Py_INCREF(value);
        PyTuple_SetItem(told, i, value);
    }
    return y5_give(told, result);
}

/* The same in Python, with `count` parameters of which the first `required` must be given. */
static PyObject *
twin(Py_ssize_t count, Py_ssize_t required)
{
    static const char *const parameters[] = {"p0", "p1", "p2", "p3"};
    char text[200] = "lambda ";
    for (Py_ssize_t i = 0; i < count; i++) {
        strcat(strcat(text, parameters[i]), i < required ? ", " : "=..., ");
    }
    strcat(text, ": (");
    for (Py_ssize_t i = 0; i < Y5_MAX_ARGUMENTS; i++) {
        strcat(strcat(text, i < count ? parameters[i] : "..."), ", ");
    }
    strcat(text, ")");
    PyObject *globals = PyDict_New();
    PyObject *made = PyRun_String(text, Py_eval_input, globals, globals);
    CHECK(made != NULL, "%s", text);
    Py_DECREF(globals);
    return made;
}

static PyObject *
take_name(input *from)
{
    static const char *const names[] = {"p0", "p1", "p2", "p3", "p", "p00", "P0", ""};
    uint64_t kind = take_bits(from, 1);
    if (kind < 224) {
        return PyUnicode_FromString(names[kind % (kind < 160 ? 4 : 8)]);
    }
    Py_UCS4 characters[4] = {'p', '0'};
    int64_t length = take_between(from, 0, 4);
    for (int64_t i = 2; i < length; i++) {
        characters[i] = (Py_UCS4)take_between(from, 0, 0x10ffff); /* surrogates and NUL too */
    }
    return PyUnicode_FromKindAndData(PyUnicode_4BYTE_KIND, characters, (Py_ssize_t)length);
}

static PyObject *
take_names(input *from)
{
    Py_ssize_t count = (Py_ssize_t)take_between(from, 0, 2 * MOST_NAMES) - MOST_NAMES;
    if (count < 0) {
        return NULL;
    }
    PyObject *names = PyTuple_New(count);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyTuple_SetItem(names, i, take_name(from));
    }
    return names;
}

/* A TypeError, which is taken away, or a result; nothing else. */
static void
check_end(PyObject *result)
{
    CHECK((result != NULL) == (PyErr_Occurred() == NULL), "result and exception");
    CHECK(result != NULL || PyErr_ExceptionMatches(PyExc_TypeError), "another exception");
    PyErr_Clear();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static PyObject *twins[Y5_MAX_ARGUMENTS + 1][Y5_MAX_ARGUMENTS + 1];
    static y5_state state;
    input from = {data, size};
    if (!Py_IsInitialized()) {
        Py_InitializeEx(0);
    }
    Py_ssize_t count = (Py_ssize_t)take_between(&from, 0, Y5_MAX_ARGUMENTS);
    Py_ssize_t required = (Py_ssize_t)take_between(&from, 0, count);
    y5_signature signature = {false, required, {"p0", "p1", "p2", "p3"}};
    signature.parameters[count] = NULL;
    if (twins[count][required] == NULL) {
        twins[count][required] = twin(count, required);
    }
    Py_ssize_t positional = (Py_ssize_t)take_between(&from, 0, Y5_MAX_ARGUMENTS + 2);
    PyObject *names = take_names(&from);
    PyObject *arguments[Y5_MAX_ARGUMENTS + 2 + MOST_NAMES];
    Py_ssize_t given = positional + (names != NULL ? PyTuple_Size(names) : 0);
    for (Py_ssize_t i = 0; i < given; i++) {
        arguments[i] = PyLong_FromSsize_t(i);
    }
    PyObject *ours = y5_enter(&state, "f", &signature, tell, arguments, positional, names);
    check_end(ours);
    PyObject *theirs =
        PyObject_Vectorcall(twins[count][required], arguments, (size_t)positional, names);
    check_end(theirs);
    CHECK((ours == NULL) == (theirs == NULL), "one of the two refuses");
    CHECK(ours == NULL || PyObject_RichCompareBool(ours, theirs, Py_EQ) == 1, "other values");
    for (Py_ssize_t i = 0; i < given; i++) {
        Py_DECREF(arguments[i]);
    }
    Py_XDECREF(ours);
    Py_XDECREF(theirs);
    Py_XDECREF(names);
    return 0;
}
