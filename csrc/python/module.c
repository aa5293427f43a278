/* The module yolov5_utils._C: definition, state, settings, and what it is told of torch. */
#include "python/bindings.h"
#include "python/cuda_loader.h"
#include "python/errors.h"
#include "python/torch_facts.h"
#include "python/trail.h"

#include <string.h>
#include <unistd.h>

/* Memory traffic below which a call stays on its own thread. benchmarks/bench_ema.py --threads 2,
 * idle and --busy, set it. */
#define DEFAULT_PARALLEL_BYTES ((int64_t)32 << 20)

/* Memory traffic below which a call keeps the GIL. Letting other Python threads run means that they
 * may replace the tensors' storage, so every tensor must be held by an alias of its own, 0.4
 * microseconds each: a tenth of the update of YOLOv5s, nothing beside that of YOLOv5x. Up to this
 * size a call lasts less than the 5 ms for which a Python thread waits in any case
 * (sys.getswitchinterval; benchmarks/bench_gil.py). */
#define DEFAULT_GIL_BYTES ((int64_t)96 << 20)

/* The names of the levels that this build has. */
#if Y5_ARM
#define LEVEL_NAMES "'portable', 'neon'"
#elif Y5_X86
#define LEVEL_NAMES "'portable', 'avx2', 'avx512'"
#else
#define LEVEL_NAMES "'portable'"
#endif

static bool
parse_level(PyObject *given, int32_t *out)
{
    PyObject *utf8 = PyUnicode_Check(given)
                         ? PyUnicode_AsEncodedString(given, "utf-8", "backslashreplace")
                         : NULL;
    if (utf8 == NULL && PyErr_Occurred()) {
        return false;
    }
    char *name = NULL;
    bool has_name = utf8 != NULL && PyBytes_AsStringAndSize(utf8, &name, NULL) == 0;
    y5_level level = has_name ? y5_level_by_name(name) : -1;
    Py_XDECREF(utf8);
    bool compiled = level >= 0 && y5_level_compiled(level);
    if (!compiled || !y5_level_runs(level)) {
        PyErr_Clear(); /* of a text with a zero in it */
        PyErr_Format(PyExc_ValueError,
                     compiled ? "level: this CPU does not run %R; its best is '%s'"
                              : "level: got %R, allowed are " LEVEL_NAMES,
                     given, y5_level_name(y5_level_best()));
        return false;
    }
    *out = level;
    return true;
}

static bool
parse_bytes(PyObject *given, const char *name, int64_t *out)
{
    int overflow = 0;
    long long bytes = PyLong_Check(given) ? PyLong_AsLongLongAndOverflow(given, &overflow) : -1;
    if (bytes < 0 || overflow != 0) {
        PyErr_Format(PyExc_ValueError, "%s: got %R, allowed are integers from 0", name, given);
        return false;
    }
    *out = bytes;
    return true;
}

const char y5_doc_configure[] =
    "configure(level=None, parallel_bytes=None, gil_bytes=None)\n--\n\n"
    "Change what is not None and return the settings as they were before, as a dict: the active\n"
    "instruction level; the bytes moved from which a call uses torch's thread pool; the bytes\n"
    "from which it releases the GIL. For start-up, tests and diagnosis.";

const y5_signature y5_signature_configure = {false, 0, {"level", "parallel_bytes", "gil_bytes"}};

y5_status
y5_py_configure(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    (void)error;
    int32_t level = atomic_load(&state->level);
    int64_t parallel_bytes = atomic_load(&state->parallel_bytes);
    int64_t gil_bytes = atomic_load(&state->gil_bytes);
    PyObject *before =
        Py_BuildValue("{s:s, s:L, s:L}", "level", y5_level_name(level), "parallel_bytes",
                      (long long)parallel_bytes, "gil_bytes", (long long)gil_bytes);
    bool valid = before != NULL &&
                 (values[0] == NULL || values[0] == Py_None || parse_level(values[0], &level)) &&
                 (values[1] == NULL || values[1] == Py_None ||
                  parse_bytes(values[1], "parallel_bytes", &parallel_bytes)) &&
                 (values[2] == NULL || values[2] == Py_None ||
                  parse_bytes(values[2], "gil_bytes", &gil_bytes));
    if (!valid) {
        Py_XDECREF(before);
        return Y5_PYTHON_RAISED;
    }
    atomic_store(&state->level, level);
    atomic_store(&state->parallel_bytes, parallel_bytes);
    atomic_store(&state->gil_bytes, gil_bytes);
    return y5_give(before, result);
}

/* A new list of the names of levels for which `holds`. */
static PyObject *
level_list(bool (*holds)(y5_level))
{
    PyObject *list = PyList_New(0);
    for (y5_level level = 0; list != NULL && level < Y5_LEVEL_COUNT; level++) {
        PyObject *name = holds(level) ? PyUnicode_FromString(y5_level_name(level)) : NULL;
        if ((name == NULL && PyErr_Occurred()) || (name != NULL && PyList_Append(list, name) < 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(name);
    }
    return list;
}

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "unknown"
#endif

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#if defined(Py_LIMITED_API)
#define LIMITED_API 1
#else
#define LIMITED_API 0
#endif

const char y5_doc_info[] = "info()\n--\n\n"
                           "Facts of this build and this machine, as a dict.";

PyObject *
y5_py_info(y5_state *state)
{
    PyObject *compiled = level_list(y5_level_compiled);
    PyObject *found = level_list(y5_level_runs);
    PyObject *facts = NULL;
    if (compiled != NULL && found != NULL) {
        facts =
            Py_BuildValue("{s:s, s:O, s:O, s:O, s:O, s:s, s:O, s:O, s:L, s:L, s:L}", "compiler",
                          COMPILER, "limited_api", LIMITED_API ? Py_True : Py_False, "sanitized",
                          SANITIZED ? Py_True : Py_False, "levels_compiled", compiled,
                          "levels_found", found, "level", y5_level_name(atomic_load(&state->level)),
                          "exchange_table", state->torch.exchange != NULL ? Py_True : Py_False,
                          "thread_pool", state->torch.parallel_for != NULL ? Py_True : Py_False,
                          "parallel_bytes", (long long)atomic_load(&state->parallel_bytes),
                          "gil_bytes", (long long)atomic_load(&state->gil_bytes), "clock_calls",
                          (long long)atomic_load(&state->clock_calls));
    }
    Py_XDECREF(found);
    Py_XDECREF(compiled);
    return facts;
}

/* The functions as Python calls them: while one runs, what it may use of torch is kept. */
#define ENTRY(name)                                                                                \
    static PyObject *enter_##name(PyObject *module, PyObject *const *arguments, Py_ssize_t count,  \
                                  PyObject *keywords)                                              \
    {                                                                                              \
        y5_state *state = PyModule_GetState(module);                                               \
        state->calls++;                                                                            \
        PyObject *result = y5_enter(state, #name, &y5_signature_##name, y5_py_##name, arguments,   \
                                    count, keywords);                                              \
        y5_facts_leave(state);                                                                     \
        return result;                                                                             \
    }
#define PLAIN_ENTRY(name)                                                                          \
    static PyObject *enter_##name(PyObject *module, PyObject *unused)                              \
    {                                                                                              \
        (void)unused;                                                                              \
        y5_state *state = PyModule_GetState(module);                                               \
        state->calls++;                                                                            \
        PyObject *result = y5_py_##name(state);                                                    \
        y5_facts_leave(state);                                                                     \
        return result;                                                                             \
    }

Y5_BINDINGS(ENTRY)
Y5_PLAIN_BINDINGS(PLAIN_ENTRY)

/* In the shape PyMethodDef wants. */
#define METHOD(name)                                                                               \
    {#name, (PyCFunction)(void (*)(void))(enter_##name), METH_FASTCALL | METH_KEYWORDS,            \
     y5_doc_##name},
#define PLAIN_METHOD(name) {#name, enter_##name, METH_NOARGS, y5_doc_##name},

static PyMethodDef methods[] = {
    Y5_BINDINGS(METHOD) Y5_PLAIN_BINDINGS(PLAIN_METHOD){NULL, NULL, 0, NULL},
};

static int
module_exec(PyObject *module)
{
    y5_state *state = PyModule_GetState(module);
    state->process = (long)getpid();
    atomic_init(&state->level, y5_level_best());
    atomic_init(&state->parallel_bytes, DEFAULT_PARALLEL_BYTES);
    atomic_init(&state->gil_bytes, DEFAULT_GIL_BYTES);
    atomic_init(&state->clock_calls, 0);
    if (!y5_names_make(state)) {
        return -1;
    }
    state->unsupported = PyErr_NewExceptionWithDoc(
        "yolov5_utils._C.Unsupported",
        "C cannot do this call with the original's bits. Nothing was changed; torch can do it.",
        NULL, NULL);
    if (state->unsupported == NULL) {
        return -1;
    }
    state->agreed = PyMem_Calloc(Y5_AGREED, sizeof(*state->agreed));
    if (state->agreed == NULL || !y5_trail_start(state) || !y5_cuda_start(state)) {
        PyErr_NoMemory();
        return -1;
    }
    return PyModule_AddObjectRef(module, "Unsupported", state->unsupported);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    y5_state *state = PyModule_GetState(module);
    Py_VISIT(state->unsupported);
    return y5_facts_traverse(state, visit, arg);
}

static int
module_clear(PyObject *module)
{
    y5_state *state = PyModule_GetState(module);
    Py_CLEAR(state->unsupported);
    y5_facts_clear(state);
    return 0;
}

static void
module_free(void *module)
{
    y5_state *state = PyModule_GetState(module);
    (void)module_clear(module);
    y5_cuda_stop(state);
    y5_trail_stop(state);
    PyMem_Free((void *)state->agreed);
}

/* Slots of later interpreters, which the headers of the stable ABI of 3.10 do not name. */
#define SLOT_MULTIPLE_INTERPRETERS 3 /* Py_mod_multiple_interpreters, of 3.12 */
#define SLOT_GIL 4                   /* Py_mod_gil, of 3.13 */

/* The latest first: an interpreter refuses numbers that it does not know. */
static PyModuleDef_Slot slots[] = {
    {SLOT_GIL, NULL},                   /* Py_MOD_GIL_USED: the state is guarded by it */
    {SLOT_MULTIPLE_INTERPRETERS, NULL}, /* not supported: torch itself is not */
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "yolov5_utils._C",
    .m_doc = "The hot paths of yolov5_utils in C.",
    .m_size = sizeof(y5_state),
    .m_methods = methods,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

/* The 13 of "3.13.0". */
static int
minor_release(void)
{
    int minor = 0;
    for (const char *at = Py_GetVersion() + strlen("3."); *at >= '0' && *at <= '9'; at++) {
        minor = 10 * minor + (*at - '0');
    }
    return minor;
}

PyMODINIT_FUNC PyInit__C(void);

PyMODINIT_FUNC
PyInit__C(void)
{
    int minor = minor_release();
    definition.m_slots = minor >= 13 ? slots : minor == 12 ? slots + 1 : slots + 2;
    return PyModuleDef_Init(&definition);
}
