/* Two rules about borrowed things, so that they cannot be forgotten.
 *
 * A reference that a container lends is taken at once: these functions are the only ones here that
 * look into dicts and lists, and they return references of the caller's own.
 *
 * While addresses of tensors are in use, nothing runs Python code. A debug build asserts it: the
 * functions of Python's that can run code are called through the macros below. The few calls that
 * are made all the same go to torch's own C functions, by their names in parentheses. */
#ifndef Y5_BORROWED_H
#define Y5_BORROWED_H

#include "python/state.h"

/* dict[key], or NULL, with an exception where the look-up raised one. */
static inline PyObject *
y5_dict_get(PyObject *dict, PyObject *key)
{
    PyObject *value = PyDict_GetItemWithError(dict, key);
    Py_XINCREF(value);
    return value;
}

/* The next entry of a dict, which may change between two calls; false behind the last. */
static inline bool
y5_dict_next(PyObject *dict, Py_ssize_t *position, PyObject **key, PyObject **value)
{
    if (!PyDict_Next(dict, position, key, value)) {
        *key = NULL;
        *value = NULL;
        return false;
    }
    Py_INCREF(*key);
    Py_INCREF(*value);
    return true;
}

/* list[index], or NULL with an exception: other code may have shortened the list. */
static inline PyObject *
y5_list_get(PyObject *list, Py_ssize_t index)
{
    PyObject *item = PyList_GetItem(list, index);
    Py_XINCREF(item);
    return item;
}

#ifdef NDEBUG
#define y5_borrowing_begins() ((void)0)
#define y5_borrowing_ends() ((void)0)
#else
/* On this thread, which holds the GIL or has it released with all memory held. */
void y5_borrowing_begins(void);
void y5_borrowing_ends(void);
void y5_python_may_run(void); /* aborts where it may not */

#define Y5_RUNS_PYTHON(call) (y5_python_may_run(), (call))
#define PyObject_CallNoArgs(f) Y5_RUNS_PYTHON((PyObject_CallNoArgs)(f))
#define PyObject_CallFunctionObjArgs(...)                                                          \
    Y5_RUNS_PYTHON((PyObject_CallFunctionObjArgs)(__VA_ARGS__))
#define PyObject_CallMethodObjArgs(...) Y5_RUNS_PYTHON((PyObject_CallMethodObjArgs)(__VA_ARGS__))
#define PyObject_CallObject(...) Y5_RUNS_PYTHON((PyObject_CallObject)(__VA_ARGS__))
#define PyObject_Call(...) Y5_RUNS_PYTHON((PyObject_Call)(__VA_ARGS__))
#define PyObject_GetAttr(o, name) Y5_RUNS_PYTHON((PyObject_GetAttr)(o, name))
#define PyObject_SetAttr(o, name, value) Y5_RUNS_PYTHON((PyObject_SetAttr)(o, name, value))
#define PyObject_SetItem(o, key, value) Y5_RUNS_PYTHON((PyObject_SetItem)(o, key, value))
#define PyObject_IsTrue(o) Y5_RUNS_PYTHON((PyObject_IsTrue)(o))
#define PyObject_Str(o) Y5_RUNS_PYTHON((PyObject_Str)(o))
#define PyDict_GetItemWithError(dict, key) Y5_RUNS_PYTHON((PyDict_GetItemWithError)(dict, key))
#define PyDict_SetItem(dict, key, value) Y5_RUNS_PYTHON((PyDict_SetItem)(dict, key, value))
#define PyLong_AsLongLong(o) Y5_RUNS_PYTHON((PyLong_AsLongLong)(o))
#define PyErr_Fetch(...) Y5_RUNS_PYTHON((PyErr_Fetch)(__VA_ARGS__))
#define PyErr_Clear() Y5_RUNS_PYTHON((PyErr_Clear)())
#undef Py_DECREF
#undef Py_XDECREF
#undef Py_CLEAR
#define Py_DECREF(o) Y5_RUNS_PYTHON(Py_DecRef((PyObject *)(o)))
#define Py_XDECREF(o) Py_DECREF(o)
#define Py_CLEAR(o)                                                                                \
    do {                                                                                           \
        PyObject *y5_cleared = (PyObject *)(o);                                                    \
        (o) = NULL;                                                                                \
        Py_DECREF(y5_cleared);                                                                     \
    } while (0)
#endif

#endif
