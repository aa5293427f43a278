/* What the extension calls of Python and of the C library, and what may come of each call. The
 * linker's --wrap leads every call of a function listed in POINTS here (building.py reads the names
 * out of this file); test_faults.py holds that no function is in neither list. */
#ifndef POINTS_H
#define POINTS_H

/* Kinds, which are bits of a mask. Functions of the last two may run any Python code. */
enum {
    OWN = 1,    /* gives memory or NULL, without an exception; may be called without the GIL */
    MEMORY = 2, /* fails for want of memory only */
    RAISES = 4, /* raises whatever it likes, but runs no Python code: functions of torch's in C */
    RUNS = 8,   /* runs Python code, and raises whatever that raises */
    FREES = 16, /* runs finalizers; cannot fail */
};

#define OBJECT PyObject *object
#define SIZE Py_ssize_t size

/* name, kind, result of a failure, type of the result, parameters, arguments */
#define POINTS(X)                                                                                  \
    X(malloc, OWN, NULL, void *, (size_t bytes), (bytes))                                          \
    X(calloc, OWN, NULL, void *, (size_t count, size_t bytes), (count, bytes))                     \
    X(aligned_alloc, OWN, NULL, void *, (size_t to, size_t bytes), (to, bytes))                    \
    X(PyMem_Malloc, OWN, NULL, void *, (size_t bytes), (bytes))                                    \
    X(PyMem_Calloc, OWN, NULL, void *, (size_t count, size_t bytes), (count, bytes))               \
    X(PyDict_Copy, MEMORY, NULL, PyObject *, (OBJECT), (object))                                   \
    X(PyDict_New, MEMORY, NULL, PyObject *, (void), ())                                            \
    X(PyErr_NewExceptionWithDoc, MEMORY, NULL, PyObject *,                                         \
      (const char *name, const char *doc, PyObject *base, OBJECT), (name, doc, base, object))      \
    X(PyFloat_FromDouble, MEMORY, NULL, PyObject *, (double value), (value))                       \
    X(PyList_Append, MEMORY, -1, int, (OBJECT, PyObject * item), (object, item))                   \
    X(PyList_AsTuple, MEMORY, NULL, PyObject *, (OBJECT), (object))                                \
    X(PyList_New, MEMORY, NULL, PyObject *, (SIZE), (size))                                        \
    X(PyLong_FromLong, MEMORY, NULL, PyObject *, (long value), (value))                            \
    X(PyLong_FromLongLong, MEMORY, NULL, PyObject *, (long long value), (value))                   \
    X(PyModule_AddObjectRef, MEMORY, -1, int, (OBJECT, const char *name, PyObject *value),         \
      (object, name, value))                                                                       \
    X(PyObject_GenericGetDict, MEMORY, NULL, PyObject *, (OBJECT, void *unused), (object, unused)) \
    X(PyObject_GenericSetAttr, MEMORY, -1, int, (OBJECT, PyObject * name, PyObject * value),       \
      (object, name, value))                                                                       \
    X(PySequence_List, MEMORY, NULL, PyObject *, (OBJECT), (object))                               \
    X(PySet_New, MEMORY, NULL, PyObject *, (OBJECT), (object))                                     \
    X(PyTuple_New, MEMORY, NULL, PyObject *, (SIZE), (size))                                       \
    X(PyUnicode_AsEncodedString, MEMORY, NULL, PyObject *,                                         \
      (OBJECT, const char *encoding, const char *errors), (object, encoding, errors))              \
    X(PyUnicode_AsUTF8String, MEMORY, NULL, PyObject *, (OBJECT), (object))                        \
    X(PyUnicode_DecodeUTF8, MEMORY, NULL, PyObject *,                                              \
      (const char *text, Py_ssize_t size, const char *errors), (text, size, errors))               \
    X(PyUnicode_FromString, MEMORY, NULL, PyObject *, (const char *text), (text))                  \
    X(PyUnicode_InternFromString, MEMORY, NULL, PyObject *, (const char *text), (text))            \
    X(PyUnicode_Join, MEMORY, NULL, PyObject *, (OBJECT, PyObject * items), (object, items))       \
    X(PyDict_GetItemWithError, RUNS, NULL, PyObject *, (OBJECT, PyObject * key), (object, key))    \
    X(PyDict_SetItem, RUNS, -1, int, (OBJECT, PyObject * key, PyObject * value),                   \
      (object, key, value))                                                                        \
    X(PyErr_CheckSignals, RUNS, -1, int, (void), ())                                               \
    X(PyLong_AsLong, RUNS, -1, long, (OBJECT), (object))                                           \
    X(PyLong_AsLongLong, RUNS, -1, long long, (OBJECT), (object))                                  \
    X(PyLong_AsUnsignedLongLong, RUNS, (unsigned long long)-1, unsigned long long, (OBJECT),       \
      (object))                                                                                    \
    X(PyLong_AsVoidPtr, RAISES, NULL, void *, (OBJECT), (object))                                  \
    X(PyObject_Call, RUNS, NULL, PyObject *, (OBJECT, PyObject * tuple, PyObject * keywords),      \
      (object, tuple, keywords))                                                                   \
    X(PyObject_CallNoArgs, RUNS, NULL, PyObject *, (OBJECT), (object))                             \
    X(PyObject_CallObject, RUNS, NULL, PyObject *, (OBJECT, PyObject * tuple), (object, tuple))    \
    X(PyObject_GenericGetAttr, RUNS, NULL, PyObject *, (OBJECT, PyObject * name), (object, name))  \
    X(PyObject_GetAttr, RUNS, NULL, PyObject *, (OBJECT, PyObject * name), (object, name))         \
    X(PyObject_GetAttrString, RUNS, NULL, PyObject *, (OBJECT, const char *name), (object, name))  \
    X(PyObject_IsTrue, RUNS, -1, int, (OBJECT), (object))                                          \
    X(PyObject_SetAttr, RUNS, -1, int, (OBJECT, PyObject * name, PyObject * value),                \
      (object, name, value))                                                                       \
    X(PyObject_SetItem, RUNS, -1, int, (OBJECT, PyObject * key, PyObject * value),                 \
      (object, key, value))                                                                        \
    X(PyObject_Str, RUNS, NULL, PyObject *, (OBJECT), (object))                                    \
    X(PySequence_Contains, RUNS, -1, int, (OBJECT, PyObject * item), (object, item))               \
    X(PySequence_GetItem, RUNS, NULL, PyObject *, (OBJECT, SIZE), (object, size))                  \
    X(PySet_Contains, RUNS, -1, int, (OBJECT, PyObject * item), (object, item))                    \
    X(PyUnicode_FSConverter, RUNS, 0, int, (OBJECT, void *out), (object, out))

/* Those whose wrappers are written out in faults.c: they take any number of arguments, or need more
 * than a result. */
#define WRITTEN_OUT                                                                                \
    realloc free PyMem_Free PyCapsule_GetPointer PyErr_Clear PyErr_Format PyErr_Restore            \
        PyErr_SetObject PyErr_SetString PyEval_SaveThread PyEval_RestoreThread                     \
            PyObject_CallFunction _PyObject_CallFunction_SizeT PyObject_CallFunctionObjArgs        \
                PyObject_CallMethod _PyObject_CallMethod_SizeT PyObject_CallMethodObjArgs          \
                    PyTuple_Pack PyType_GetSlot PyArg_ParseTuple _PyArg_ParseTuple_SizeT           \
                        Py_BuildValue _Py_BuildValue_SizeT Py_DecRef _Py_Dealloc                   \
                            y5_borrowing_begins y5_borrowing_ends

/* Those that cannot fail as they are called, and run no Python code: they read what was checked
 * before, or compare. */
#define PLAIN                                                                                      \
    PyBool_FromLong PyBytes_AsString PyBytes_AsStringAndSize PyCallable_Check PyCapsule_IsValid    \
        PyCapsule_SetName PyDict_Next PyDict_Size PyErr_ExceptionMatches PyErr_Fetch               \
            PyErr_NoMemory PyErr_Occurred PyFloat_AsDouble PyGC_Disable PyGC_Enable PyList_GetItem \
                PyList_Reverse PyList_SetItem PyList_SetSlice PyList_Size                          \
                    PyLong_AsLongLongAndOverflow PyModuleDef_Init PyModule_GetDict                 \
                        PyModule_GetState PySet_Size PyTuple_GetItem PyTuple_Size PyType_GetFlags  \
                            PyType_IsSubtype PyUnicode_CompareWithASCIIString PyUnicode_FindChar   \
                                PyUnicode_GetLength Py_FatalError Py_GetVersion Py_IncRef

#endif
