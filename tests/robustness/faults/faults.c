/* Linked into an extension that is under test: every call it makes of Python, of the C library's
 * memory and of torch's exchange table passes a point here, at which the call fails, or Python code
 * of the test runs first. The extension's own object files are the ordinary ones. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "python/dlpack_abi.h"

#include "points.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define MOST_LOANS 4096
#define CALLS_TORCH "PyObject_CallFunctionObjArgs" /* also its C functions, at any time */

/* One strike: at the point number `at` of the kinds in `kinds`, counted from arming on. */
static struct {
    atomic_bool armed;
    _Atomic long passed;
    long at;
    int kinds;
    PyObject *what;            /* an exception to raise, or a callable to call */
    const char *_Atomic where; /* the function at which it struck; NULL: not yet */
} strike;

#define DECLARE(name, kind, failure, type, parameters, arguments)                                  \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;
POINTS(DECLARE)

void __real_PyErr_Restore(PyObject *type, PyObject *value, PyObject *traceback);
void __real_PyErr_SetObject(PyObject *type, PyObject *value);

static _Atomic long live_blocks;  /* of memory that the extension has allocated itself */
static _Thread_local long in_use; /* addresses of tensors may be: borrowed.h's witness */
static _Thread_local bool lets_others_run;

/* Is this the point to strike at? */
static bool
is_due(int kind, const char *name)
{
    if (!atomic_load(&strike.armed) || (kind & strike.kinds) == 0) {
        return false;
    }
    if (atomic_fetch_add(&strike.passed, 1) != strike.at) {
        return false;
    }
    strike.where = name;
    atomic_store(&strike.armed, false);
    return true;
}

/* Calls the test's function with the name of the point; an exception that is pending stays, and one
 * of its own is lost where `may_raise` is false. True where it has raised. */
static bool
run_python(const char *name, bool may_raise)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *text = __real_PyUnicode_FromString(name);
    PyObject *tuple = text != NULL ? __real_PyTuple_New(1) : NULL;
    PyObject *result = NULL;
    if (tuple != NULL) {
        PyTuple_SetItem(tuple, 0, text);
        result = __real_PyObject_Call(strike.what, tuple, NULL);
    }
    bool raised = result == NULL;
    Py_XDECREF(result);
    Py_XDECREF(tuple);
    if (raised && may_raise && type == NULL) {
        return true;
    }
    __real_PyErr_Restore(type, value, traceback);
    return false;
}

/* Nothing of Python is called without the GIL, and while addresses are in use nothing that may run
 * Python code: borrowed.h's own witness sees only what goes through its macros. */
static void
keep_rules(int kind, const char *name)
{
    if (kind != OWN && !PyGILState_Check()) {
        Py_FatalError("faults: Python was called without the GIL");
    }
    if (kind == RUNS && in_use > 0 && strcmp(name, CALLS_TORCH) != 0) {
        Py_FatalError("faults: Python code could run while addresses of tensors are in use");
    }
}

/* True where the call is to be made, false where it has failed, with an exception set where its
 * kind has one. */
static bool
passes(int kind, const char *name)
{
    bool calls = strike.what != NULL && (strike.kinds & FREES) != 0;
    keep_rules(kind, name);
    if ((calls && in_use > 0 && !lets_others_run) || !is_due(kind, name)) {
        return true;
    }
    if (kind == OWN) {
        return false;
    }
    if (calls) {
        return !run_python(name, kind == RUNS);
    }
    if (strike.what == NULL) {
        PyErr_NoMemory();
    } else {
        __real_PyErr_SetObject((PyObject *)Py_TYPE(strike.what), strike.what);
    }
    return false;
}

static void *
counted(void *block)
{
    live_blocks += block != NULL;
    return block;
}

/* The plain wrappers. */
#define WRAP(name, kind, failure, type, parameters, arguments)                                     \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        return passes(kind, #name) ? RESULT_##kind(__real_##name arguments) : failure;             \
    }
#define RESULT_OWN(block) counted(block)
#define RESULT_MEMORY(result) (result)
#define RESULT_RAISES(result) (result)
#define RESULT_RUNS(result) (result)

POINTS(WRAP)

void *__real_realloc(void *block, size_t bytes);
void *
__wrap_realloc(void *block, size_t bytes)
{
    if (!passes(OWN, "realloc")) {
        return NULL;
    }
    void *grown = __real_realloc(block, bytes);
    live_blocks += block == NULL && grown != NULL;
    return grown;
}

#define WRAP_FREE(name)                                                                            \
    void __real_##name(void *block);                                                               \
    void __wrap_##name(void *block)                                                                \
    {                                                                                              \
        live_blocks -= block != NULL;                                                              \
        __real_##name(block);                                                                      \
    }
WRAP_FREE(free)
WRAP_FREE(PyMem_Free)

/* What runs finalizers: the test's code runs in their stead, behind them. */
#define WRAP_RELEASE(name, parameters, arguments, last)                                            \
    void __real_##name parameters;                                                                 \
    void __wrap_##name parameters;                                                                 \
    void __wrap_##name parameters                                                                  \
    {                                                                                              \
        bool releases = last;                                                                      \
        keep_rules(FREES, #name);                                                                  \
        __real_##name arguments;                                                                   \
        if (releases) {                                                                            \
            (void)passes(FREES, #name);                                                            \
        }                                                                                          \
    }
WRAP_RELEASE(_Py_Dealloc, (PyObject * object), (object), true)
WRAP_RELEASE(Py_DecRef, (PyObject * object), (object), object != NULL && Py_REFCNT(object) == 1)
WRAP_RELEASE(PyErr_Clear, (void), (), PyErr_Occurred() != NULL)
WRAP_RELEASE(PyErr_Restore, (PyObject * type, PyObject *value, PyObject *traceback),
             (type, value, traceback), PyErr_Occurred() != NULL)

/* Other threads run while this one has let go of the GIL. */
PyThreadState *__real_PyEval_SaveThread(void);
PyThreadState *
__wrap_PyEval_SaveThread(void)
{
    lets_others_run = true;
    (void)passes(FREES, "PyEval_SaveThread");
    lets_others_run = false;
    return __real_PyEval_SaveThread();
}

void __real_PyEval_RestoreThread(PyThreadState *state);
void
__wrap_PyEval_RestoreThread(PyThreadState *state)
{
    __real_PyEval_RestoreThread(state);
    lets_others_run = true;
    (void)passes(FREES, "PyEval_RestoreThread");
    lets_others_run = false;
}

/* What sets exceptions may fail for want of memory, and format what runs code. */
void
__wrap_PyErr_SetObject(PyObject *type, PyObject *value)
{
    if (passes(MEMORY, "PyErr_SetObject")) {
        __real_PyErr_SetObject(type, value);
    }
}

void __real_PyErr_SetString(PyObject *type, const char *text);
void
__wrap_PyErr_SetString(PyObject *type, const char *text)
{
    if (passes(MEMORY, "PyErr_SetString")) {
        __real_PyErr_SetString(type, text);
    }
}

PyObject *
__wrap_PyErr_Format(PyObject *type, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (passes(RUNS, "PyErr_Format")) {
        PyErr_FormatV(type, format, arguments);
    }
    va_end(arguments);
    return NULL;
}

#define WRAP_BUILD_VALUE(name)                                                                     \
    PyObject *__wrap_##name(const char *format, ...)                                               \
    {                                                                                              \
        va_list arguments;                                                                         \
        va_start(arguments, format);                                                               \
        PyObject *made = passes(MEMORY, #name) ? Py_VaBuildValue(format, arguments) : NULL;        \
        va_end(arguments);                                                                         \
        return made;                                                                               \
    }
WRAP_BUILD_VALUE(Py_BuildValue)
WRAP_BUILD_VALUE(_Py_BuildValue_SizeT)

#define WRAP_PARSE(name)                                                                           \
    int __wrap_##name(PyObject *tuple, const char *format, ...)                                    \
    {                                                                                              \
        va_list arguments;                                                                         \
        va_start(arguments, format);                                                               \
        int parsed = passes(RUNS, #name) && PyArg_VaParse(tuple, format, arguments);               \
        va_end(arguments);                                                                         \
        return parsed;                                                                             \
    }
WRAP_PARSE(PyArg_ParseTuple)
WRAP_PARSE(_PyArg_ParseTuple_SizeT)

/* function(*arguments by the format), which is in the stable ABI without its va_list twin. */
static PyObject *
call_by_format(PyObject *function, const char *format, va_list arguments)
{
    char grouped[64];
    snprintf(grouped, sizeof(grouped), "(%s)", format != NULL ? format : "");
    PyObject *tuple = function != NULL ? Py_VaBuildValue(grouped, arguments) : NULL;
    PyObject *result = tuple != NULL ? __real_PyObject_Call(function, tuple, NULL) : NULL;
    Py_XDECREF(tuple);
    return result;
}

#define WRAP_CALL_FUNCTION(name)                                                                   \
    PyObject *__wrap_##name(PyObject *function, const char *format, ...)                           \
    {                                                                                              \
        va_list arguments;                                                                         \
        va_start(arguments, format);                                                               \
        PyObject *result =                                                                         \
            passes(RUNS, #name) ? call_by_format(function, format, arguments) : NULL;              \
        va_end(arguments);                                                                         \
        return result;                                                                             \
    }
WRAP_CALL_FUNCTION(PyObject_CallFunction)
WRAP_CALL_FUNCTION(_PyObject_CallFunction_SizeT)

#define WRAP_CALL_METHOD(name)                                                                     \
    PyObject *__wrap_##name(PyObject *object, const char *method, const char *format, ...)         \
    {                                                                                              \
        va_list arguments;                                                                         \
        va_start(arguments, format);                                                               \
        PyObject *bound =                                                                          \
            passes(RUNS, #name) ? __real_PyObject_GetAttrString(object, method) : NULL;            \
        PyObject *result = bound != NULL ? call_by_format(bound, format, arguments) : NULL;        \
        Py_XDECREF(bound);                                                                         \
        va_end(arguments);                                                                         \
        return result;                                                                             \
    }
WRAP_CALL_METHOD(PyObject_CallMethod)
WRAP_CALL_METHOD(_PyObject_CallMethod_SizeT)

/* The arguments up to NULL as a tuple. */
static PyObject *
tuple_of(va_list arguments)
{
    PyObject *list = __real_PyList_New(0);
    PyObject *item = NULL;
    while (list != NULL && (item = va_arg(arguments, PyObject *)) != NULL) {
        if (__real_PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
    }
    PyObject *tuple = list != NULL ? __real_PyList_AsTuple(list) : NULL;
    Py_XDECREF(list);
    return tuple;
}

/* Calls of torch's C functions, made while addresses are in use, run no Python code. */
PyObject *
__wrap_PyObject_CallFunctionObjArgs(PyObject *function, ...)
{
    va_list arguments;
    va_start(arguments, function);
    PyObject *tuple = NULL;
    if (passes(RUNS, "PyObject_CallFunctionObjArgs")) {
        tuple = tuple_of(arguments);
    }
    PyObject *result = tuple != NULL ? __real_PyObject_Call(function, tuple, NULL) : NULL;
    Py_XDECREF(tuple);
    va_end(arguments);
    return result;
}

PyObject *
__wrap_PyObject_CallMethodObjArgs(PyObject *object, PyObject *name, ...)
{
    va_list arguments;
    va_start(arguments, name);
    PyObject *bound = NULL;
    if (passes(RUNS, "PyObject_CallMethodObjArgs")) {
        bound = __real_PyObject_GetAttr(object, name);
    }
    PyObject *tuple = bound != NULL ? tuple_of(arguments) : NULL;
    PyObject *result = tuple != NULL ? __real_PyObject_Call(bound, tuple, NULL) : NULL;
    Py_XDECREF(tuple);
    Py_XDECREF(bound);
    va_end(arguments);
    return result;
}

PyObject *
__wrap_PyTuple_Pack(Py_ssize_t count, ...)
{
    va_list arguments;
    va_start(arguments, count);
    PyObject *tuple = passes(MEMORY, "PyTuple_Pack") ? __real_PyTuple_New(count) : NULL;
    for (Py_ssize_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *item = va_arg(arguments, PyObject *);
        Py_INCREF(item);
        PyTuple_SetItem(tuple, i, item);
    }
    va_end(arguments);
    return tuple;
}

/* A type's own constructor is a pointer, through which the extension calls. */
static newfunc real_new;

static PyObject *
new_object(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    return passes(RUNS, "tp_new") ? real_new(type, arguments, keywords) : NULL;
}

void *__real_PyType_GetSlot(PyTypeObject *type, int slot);
void *
__wrap_PyType_GetSlot(PyTypeObject *type, int slot)
{
    void *found = __real_PyType_GetSlot(type, slot);
    if (slot != Py_tp_new) {
        return found;
    }
    real_new = (newfunc)found;
    return (void *)new_object;
}

/* So are the functions of torch's exchange table and the deleters of managed tensors. */
static dlpack_exchange_table table;
static int (*real_borrow)(void *object, dlpack_tensor *out);

static int
borrow(void *object, dlpack_tensor *out)
{
    return passes(RAISES, "borrow") ? real_borrow(object, out) : -1;
}

static struct {
    void *managed;
    void (**place)(void *); /* of its deleter */
    void (*deleter)(void *);
} loans[MOST_LOANS];
static long loan_count;

/* Gives one loan back, which counts, and lets the test's code run: deleters are anybody's. */
static void
give_back(void *managed)
{
    long at = 0;
    while (at < loan_count && loans[at].managed != managed) {
        at++;
    }
    if (at == loan_count) {
        Py_FatalError("faults: a tensor was given back that was not lent");
    }
    void (*deleter)(void *) = loans[at].deleter;
    *loans[at].place = deleter;
    loans[at] = loans[--loan_count];
    deleter(managed);
    (void)passes(FREES, "deleter");
}

static void
lend(void *managed, void (**deleter)(void *))
{
    if (*deleter == NULL) {
        return;
    }
    if (loan_count == MOST_LOANS) {
        Py_FatalError("faults: more loans than there is room for");
    }
    loans[loan_count].managed = managed;
    loans[loan_count].place = deleter;
    loans[loan_count++].deleter = *deleter;
    *deleter = give_back;
}

void *__real_PyCapsule_GetPointer(PyObject *capsule, const char *name);
void *
__wrap_PyCapsule_GetPointer(PyObject *capsule, const char *name)
{
    void *found = __real_PyCapsule_GetPointer(capsule, name);
    if (found != NULL && strcmp(name, DLPACK_EXCHANGE_CAPSULE) == 0) {
        table = *(const dlpack_exchange_table *)found;
        real_borrow = table.borrow;
        table.borrow = real_borrow != NULL ? borrow : NULL;
        return &table;
    }
    if (found != NULL && strcmp(name, "dltensor") == 0) {
        lend(found, (void (**)(void *))(void *)&((dlpack_managed *)found)->deleter);
    } else if (found != NULL && strcmp(name, "dltensor_versioned") == 0) {
        lend(found, (void (**)(void *))(void *)&((dlpack_managed_versioned *)found)->deleter);
    }
    return found;
}

/* borrowed.h's witness, which is there in builds with assertions. */
#define WRAP_WITNESS(name, change)                                                                 \
    void __real_##name(void);                                                                      \
    void __wrap_##name(void)                                                                       \
    {                                                                                              \
        in_use += change;                                                                          \
        __real_##name();                                                                           \
    }
WRAP_WITNESS(y5_borrowing_begins, 1)
WRAP_WITNESS(y5_borrowing_ends, -1)

/* For the test, through ctypes. `what` is held by the caller until it disarms. */
EXPORT void faults_arm(long at, int kinds, PyObject *what);
EXPORT void
faults_arm(long at, int kinds, PyObject *what)
{
    strike.passed = 0;
    strike.at = at;
    strike.kinds = kinds;
    strike.what = what;
    strike.where = NULL;
    strike.armed = true;
}

/* How many points of those kinds were passed up to the strike, or in all. */
EXPORT long faults_disarm(void);
EXPORT long
faults_disarm(void)
{
    strike.armed = false;
    strike.what = NULL;
    return strike.passed;
}

EXPORT const char *faults_where(void);
EXPORT const char *
faults_where(void)
{
    return strike.where;
}

/* What is held now: blocks of memory, managed tensors, the right to use addresses. */
EXPORT void faults_held(long out[3]);
EXPORT void
faults_held(long out[3])
{
    out[0] = live_blocks;
    out[1] = loan_count;
    out[2] = in_use;
}
