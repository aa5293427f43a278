/* The module yolov5_utils._C: definition, state, settings, and what it is told of torch. */
#include "python/args.h"
#include "python/bindings.h"
#include "python/clock.h"
#include "python/cuda_loader.h"
#include "python/errors.h"
#include "python/tensor.h"
#include "python/torch_runtime.h"

#include <string.h>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#define CURRENT_PROCESS() ((long)getpid())
#else
#define CURRENT_PROCESS() 0L
#endif

/* Memory traffic below which a call stays on its own thread. benchmarks/bench_ema.py --threads 2,
 * idle and --busy, set it. */
#define DEFAULT_PARALLEL_BYTES ((int64_t)32 << 20)

/* Memory traffic below which a call keeps the GIL. Letting other Python threads run means that they
 * may replace the tensors' storage, so every tensor must be held by an alias of its own, 0.4
 * microseconds each: a tenth of the update of YOLOv5s, nothing beside that of YOLOv5x. Up to this
 * size a call lasts less than the 5 ms for which a Python thread waits in any case
 * (sys.getswitchinterval; benchmarks/bench_gil.py). */
#define DEFAULT_GIL_BYTES ((int64_t)96 << 20)

static const char *const attribute_names[Y5_NAME_COUNT] = {
    [Y5_METHOD_STATE_DICT] = "state_dict",
    [Y5_METHOD_SAVE_TO_STATE_DICT] = "_save_to_state_dict",
    [Y5_METHOD_GET_EXTRA_STATE] = "get_extra_state",
    [Y5_METHOD_PARAMETERS] = "parameters",
    [Y5_METHOD_NAMED_PARAMETERS] = "named_parameters",
    [Y5_METHOD_NAMED_MEMBERS] = "_named_members",
    [Y5_METHOD_NAMED_MODULES] = "named_modules",
    [Y5_METHOD_HASH] = "__hash__",
    [Y5_METHOD_EQUAL] = "__eq__",
    [Y5_NAME_PARAMETERS] = "_parameters",
    [Y5_NAME_BUFFERS] = "_buffers",
    [Y5_NAME_MODULES] = "_modules",
    [Y5_NAME_NON_PERSISTENT] = "_non_persistent_buffers_set",
    [Y5_NAME_HOOKS] = "_state_dict_hooks",
    [Y5_NAME_PRE_HOOKS] = "_state_dict_pre_hooks",
    [Y5_NAME_GETATTRIBUTE] = "__getattribute__",
    [Y5_NAME_DTYPE] = "dtype",
    [Y5_NAME_IS_FLOATING_POINT] = "is_floating_point",
    [Y5_NAME_UNTYPED_STORAGE] = "untyped_storage",
    [Y5_NAME_NBYTES] = "nbytes",
    [Y5_NAME_DLPACK] = "__dlpack__",
    [Y5_NAME_DLPACK_DEVICE] = "__dlpack_device__",
    [Y5_NAME_MAX_VERSION] = "max_version",
    [Y5_NAME_CUDA] = "cuda",
    [Y5_NAME_IS_AVAILABLE] = "is_available",
    [Y5_NAME_SYNCHRONIZE] = "synchronize",
    [Y5_NAME_TIME] = "time",
    [Y5_NAME_INITIALIZED] = "_initialized",
    [Y5_NAME_IS_IN_BAD_FORK] = "_is_in_bad_fork",
    [Y5_NAME_GET_DEVICE_COUNT] = "_cuda_getDeviceCount",
    [Y5_NAME_CUDA_SYNCHRONIZE] = "_cuda_synchronize",
    [Y5_NAME_WEIGHT] = "weight",
    [Y5_NAME_BIAS] = "bias",
    [Y5_NAME_RUNNING_MEAN] = "running_mean",
    [Y5_NAME_RUNNING_VAR] = "running_var",
    [Y5_NAME_EPS] = "eps",
    [Y5_NAME_REQUIRES_GRAD] = "requires_grad",
    [Y5_NAME_CLASS] = "__class__",
    [Y5_NAME_IN_CHANNELS] = "in_channels",
    [Y5_NAME_OUT_CHANNELS] = "out_channels",
    [Y5_NAME_KERNEL_SIZE] = "kernel_size",
    [Y5_NAME_STRIDE] = "stride",
    [Y5_NAME_PADDING] = "padding",
    [Y5_NAME_DILATION] = "dilation",
    [Y5_NAME_GROUPS] = "groups",
};

static void
forget_torch(y5_torch *torch)
{
    Py_CLEAR(torch->tensor_type);
    Py_CLEAR(torch->parameter_type);
    Py_CLEAR(torch->module_type);
    Py_CLEAR(torch->convolution_type);
    Py_CLEAR(torch->batch_norm_type);
    Py_CLEAR(torch->ordered_dict_type);
    for (int32_t i = 0; i < Y5_METHOD_COUNT; i++) {
        Py_CLEAR(torch->methods[i]);
    }
    Py_CLEAR(torch->getattribute);
    Py_CLEAR(torch->guards);
    Py_CLEAR(torch->is_neg);
    Py_CLEAR(torch->detach);
    Py_CLEAR(torch->storage_offset);
    Py_CLEAR(torch->sqrt_in_place);
    Py_CLEAR(torch->empty);
    Py_CLEAR(torch->empty_like);
    Py_CLEAR(torch->is_grad_enabled);
    Py_CLEAR(torch->bump_versions);
    Py_CLEAR(torch->to_dlpack);
    Py_CLEAR(torch->current_stream);
    Py_CLEAR(torch->allocate);
    for (int32_t i = 0; i < Y5_CLOCK_COUNT; i++) {
        Py_CLEAR(torch->clock[i]);
    }
    memset(torch, 0, sizeof(*torch));
}

/* facts.attribute as a new reference; None and, where `optional`, absence give NULL. */
static bool
take(PyObject *facts, const char *attribute, bool optional, PyObject **out)
{
    *out = PyObject_GetAttrString(facts, attribute);
    if (*out == NULL) {
        if (optional) {
            PyErr_Clear();
        }
        return optional;
    }
    if (*out == Py_None) {
        Py_CLEAR(*out);
    }
    return true;
}

static bool
take_type(PyObject *facts, const char *attribute, PyTypeObject **out)
{
    PyObject *type = NULL;
    if (!take(facts, attribute, false, &type)) {
        return false;
    }
    if (type == NULL || !PyType_Check(type)) {
        PyErr_Format(PyExc_TypeError, "%s: expected a type", attribute);
        Py_XDECREF(type);
        return false;
    }
    *out = (PyTypeObject *)type;
    return true;
}

static bool
are_guards(PyObject *guards)
{
    if (guards == NULL || !PyTuple_Check(guards)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < PyTuple_Size(guards); i++) {
        PyObject *guard = PyTuple_GetItem(guards, i);
        if (!PyTuple_Check(guard) || PyTuple_Size(guard) != 2 ||
            !PyCallable_Check(PyTuple_GetItem(guard, 0)) ||
            !PyUnicode_Check(PyTuple_GetItem(guard, 1))) {
            return false;
        }
    }
    return true;
}

static bool
learn(PyObject *facts, y5_torch *torch)
{
    PyObject *half_scalars = NULL;
    PyObject *use_exchange = NULL;
    if (!take_type(facts, "tensor_type", &torch->tensor_type) ||
        !take_type(facts, "parameter_type", &torch->parameter_type) ||
        !take_type(facts, "module_type", &torch->module_type) ||
        !take_type(facts, "convolution_type", &torch->convolution_type) ||
        !take_type(facts, "batch_norm_type", &torch->batch_norm_type) ||
        !take_type(facts, "ordered_dict_type", &torch->ordered_dict_type) ||
        !take(facts, "guards", false, &torch->guards) ||
        !take((PyObject *)torch->tensor_type, "is_neg", false, &torch->is_neg) ||
        !take((PyObject *)torch->tensor_type, "detach", false, &torch->detach) ||
        !take((PyObject *)torch->tensor_type, "storage_offset", false, &torch->storage_offset) ||
        !take((PyObject *)torch->tensor_type, "sqrt_", false, &torch->sqrt_in_place) ||
        !take(facts, "empty", false, &torch->empty) ||
        !take(facts, "empty_like", false, &torch->empty_like) ||
        !take(facts, "is_grad_enabled", false, &torch->is_grad_enabled) ||
        !take((PyObject *)torch->module_type, "__getattribute__", false, &torch->getattribute) ||
        !take(facts, "bump_versions", false, &torch->bump_versions) ||
        !take(facts, "to_dlpack", false, &torch->to_dlpack) ||
        !take(facts, "current_stream", false, &torch->current_stream) ||
        !take(facts, "allocate", false, &torch->allocate) ||
        !take(facts, "half_scalars_stay_float32", false, &half_scalars) ||
        !y5_clock_learn(facts, torch)) {
        return false;
    }
    torch->half_scalars_stay_float32 = half_scalars == Py_True;
    Py_XDECREF(half_scalars);
    if (!are_guards(torch->guards)) {
        PyErr_SetString(PyExc_TypeError, "guards: expected a tuple of (callable, str) tuples");
        return false;
    }
    for (int32_t i = 0; i < Y5_METHOD_COUNT; i++) {
        if (!take((PyObject *)torch->module_type, attribute_names[i], true, &torch->methods[i])) {
            return false;
        }
    }
    if (!take(facts, "use_exchange", false, &use_exchange)) {
        return false;
    }
    torch->exchange = use_exchange == Py_True ? y5_find_exchange(torch->tensor_type) : NULL;
    Py_XDECREF(use_exchange);
    y5_torch_find_pool(torch);
    return true;
}

static const char doc_register_torch[] = "register_torch(facts)\n--\n\n"
                                         "Tell the extension of torch: an object with the "
                                         "attributes of _native.TorchFacts. Called once\n"
                                         "at import; tests call it again to take the capsule way. "
                                         "True where the exchange table is used.";

static PyObject *
register_torch(PyObject *module, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    static const y5_signature signature = {"register_torch", 1, {"facts"}};
    y5_state *state = PyModule_GetState(module);
    PyObject *values[1];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    y5_torch torch = {0};
    if (!learn(values[0], &torch)) {
        forget_torch(&torch);
        return NULL;
    }
    forget_torch(&state->torch);
    state->torch = torch;
    return PyBool_FromLong(torch.exchange != NULL);
}

static bool
parse_level(PyObject *given, int32_t *out)
{
    PyObject *utf8 = PyUnicode_Check(given) ? PyUnicode_AsUTF8String(given) : NULL;
    char *name = NULL;
    bool has_name = utf8 != NULL && PyBytes_AsStringAndSize(utf8, &name, NULL) == 0;
    y5_level level = has_name ? y5_level_by_name(name) : -1;
    Py_XDECREF(utf8);
    if (level < 0 || !y5_level_compiled(level)) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "level: got %R, allowed are 'portable', 'avx2', 'avx512'",
                     given);
        return false;
    }
    if (!y5_level_runs(level)) {
        PyErr_Format(PyExc_ValueError, "level: this CPU does not run %R; its best is '%s'", given,
                     y5_level_name(y5_level_best()));
        return false;
    }
    *out = level;
    return true;
}

static bool
parse_bytes(PyObject *given, const char *name, int64_t *out)
{
    long long bytes = PyLong_Check(given) ? PyLong_AsLongLong(given) : -1;
    if (bytes < 0) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s: got %R, allowed are integers from 0", name, given);
        return false;
    }
    *out = bytes;
    return true;
}

static const char doc_configure[] =
    "configure(level=None, parallel_bytes=None, gil_bytes=None)\n--\n\n"
    "Change what is not None and return the settings as they were before, as a dict: the active\n"
    "instruction level; the bytes moved from which a call uses torch's thread pool; the bytes "
    "from\n"
    "which it releases the GIL. For start-up, tests and diagnosis.";

static PyObject *
configure(PyObject *module, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    static const y5_signature signature = {
        "configure", 0, {"level", "parallel_bytes", "gil_bytes"}};
    y5_state *state = PyModule_GetState(module);
    PyObject *values[3];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
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
        return NULL;
    }
    atomic_store(&state->level, level);
    atomic_store(&state->parallel_bytes, parallel_bytes);
    atomic_store(&state->gil_bytes, gil_bytes);
    return before;
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

static const char doc_info[] = "info()\n--\n\n"
                               "Facts of this build and this machine, as a dict.";

static PyObject *
info(PyObject *module, PyObject *unused)
{
    (void)unused;
    const y5_state *state = PyModule_GetState(module);
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

/* A METH_FASTCALL function in the shape PyMethodDef wants. */
#define FASTCALL(function) ((PyCFunction)(void (*)(void))(function)), METH_FASTCALL | METH_KEYWORDS

static PyMethodDef methods[] = {
    {"ema_update", FASTCALL(y5_py_ema_update), y5_doc_ema_update},
    {"ema_check", FASTCALL(y5_py_ema_check), y5_doc_ema_check},
    {"count_module_zeros", FASTCALL(y5_py_count_module_zeros), y5_doc_count_module_zeros},
    {"count_zeros", FASTCALL(y5_py_count_zeros), y5_doc_count_zeros},
    {"sum_zeros", FASTCALL(y5_py_sum_zeros), y5_doc_sum_zeros},
    {"fuse", FASTCALL(y5_py_fuse), y5_doc_fuse},
    {"prune", FASTCALL(y5_py_prune), y5_doc_prune},
    {"scale_img", FASTCALL(y5_py_scale_img), y5_doc_scale_img},
    {"time_synchronized", y5_py_time_synchronized, METH_NOARGS, y5_doc_time_synchronized},
    {"register_torch", FASTCALL(register_torch), doc_register_torch},
    {"configure", FASTCALL(configure), doc_configure},
    {"use_cuda_library", FASTCALL(y5_py_use_cuda_library), y5_doc_use_cuda_library},
    {"fuse_on_gpu", FASTCALL(y5_py_fuse_on_gpu), y5_doc_fuse_on_gpu},
    {"skip_random", FASTCALL(y5_py_skip_random), y5_doc_skip_random},
    {"cuda_info", FASTCALL(y5_py_cuda_info), y5_doc_cuda_info},
    {"info", info, METH_NOARGS, doc_info},
    {NULL, NULL, 0, NULL},
};

static int
module_exec(PyObject *module)
{
    y5_state *state = PyModule_GetState(module);
    state->process = CURRENT_PROCESS();
    atomic_init(&state->level, y5_level_best());
    atomic_init(&state->parallel_bytes, DEFAULT_PARALLEL_BYTES);
    atomic_init(&state->gil_bytes, DEFAULT_GIL_BYTES);
    atomic_init(&state->clock_calls, 0);
    for (int32_t i = 0; i < Y5_NAME_COUNT; i++) {
        state->names[i] = PyUnicode_InternFromString(attribute_names[i]);
        if (state->names[i] == NULL) {
            return -1;
        }
    }
    state->unsupported = PyErr_NewExceptionWithDoc(
        "yolov5_utils._C.Unsupported",
        "C cannot do this call with the original's bits. Nothing was changed; torch can do it.",
        NULL, NULL);
    if (state->unsupported == NULL) {
        return -1;
    }
    if (!y5_cuda_start(state)) {
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
    Py_VISIT(state->torch.tensor_type);
    Py_VISIT(state->torch.parameter_type);
    Py_VISIT(state->torch.module_type);
    Py_VISIT(state->torch.convolution_type);
    Py_VISIT(state->torch.batch_norm_type);
    Py_VISIT(state->torch.ordered_dict_type);
    for (int32_t i = 0; i < Y5_METHOD_COUNT; i++) {
        Py_VISIT(state->torch.methods[i]);
    }
    Py_VISIT(state->torch.getattribute);
    Py_VISIT(state->torch.guards);
    Py_VISIT(state->torch.is_neg);
    Py_VISIT(state->torch.detach);
    Py_VISIT(state->torch.storage_offset);
    Py_VISIT(state->torch.sqrt_in_place);
    Py_VISIT(state->torch.empty);
    Py_VISIT(state->torch.empty_like);
    Py_VISIT(state->torch.is_grad_enabled);
    Py_VISIT(state->torch.bump_versions);
    Py_VISIT(state->torch.to_dlpack);
    Py_VISIT(state->torch.current_stream);
    Py_VISIT(state->torch.allocate);
    for (int32_t i = 0; i < Y5_CLOCK_COUNT; i++) {
        Py_VISIT(state->torch.clock[i]);
    }
    return 0;
}

static int
module_clear(PyObject *module)
{
    y5_state *state = PyModule_GetState(module);
    Py_CLEAR(state->unsupported);
    for (int32_t i = 0; i < Y5_NAME_COUNT; i++) {
        Py_CLEAR(state->names[i]);
    }
    forget_torch(&state->torch);
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear(module);
    y5_cuda_stop(PyModule_GetState(module));
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "yolov5_utils._C",
    .m_doc = "The hot paths of yolov5_utils in C.",
    .m_size = sizeof(y5_state),
    .m_methods = methods,
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__C(void);

PyMODINIT_FUNC
PyInit__C(void)
{
    return PyModuleDef_Init(&definition);
}
