/* Argument parsing for METH_FASTCALL | METH_KEYWORDS. */
#include "python/args.h"

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
take_keywords(const y5_signature *signature, PyObject *const *arguments, PyObject *keywords,
              PyObject **values)
{
    Py_ssize_t count = PyTuple_Size(keywords);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *keyword = PyTuple_GetItem(keywords, i);
        Py_ssize_t index = parameter_index(signature, keyword);
        if (index < 0) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'",
                         signature->function, keyword);
            return false;
        }
        if (values[index] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'",
                         signature->function, keyword);
            return false;
        }
        values[index] = arguments[i];
    }
    return true;
}

bool
y5_parse(const y5_signature *signature, PyObject *const *arguments, Py_ssize_t positional,
         PyObject *keywords, PyObject **values)
{
    Py_ssize_t count = parameter_count(signature);
    if (positional > count) {
        PyErr_Format(PyExc_TypeError, "%s() takes %zd positional arguments but %zd were given",
                     signature->function, count, positional);
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        values[i] = i < positional ? arguments[i] : NULL;
    }
    if (keywords != NULL && !take_keywords(signature, arguments + positional, keywords, values)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < signature->required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument '%s' (pos %zd)",
                         signature->function, signature->parameters[i], i + 1);
            return false;
        }
    }
    return true;
}
