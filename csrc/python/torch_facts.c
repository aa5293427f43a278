/* What the extension is told of torch: taken once, checked, and kept for the calls. */
#include "python/torch_facts.h"

#include "python/args.h"
#include "python/clock.h"
#include "python/tensor.h"
#include "python/torch_runtime.h"

#include <string.h>

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
    [Y5_NAME_REVERSED_PADDING] = "_reversed_padding_repeated_twice",
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
    for (int32_t i = 0; i < Y5_OBJECT_COUNT; i++) {
        Py_CLEAR(torch->objects[i]);
    }
    for (int32_t i = 0; i < Y5_METHOD_COUNT; i++) {
        Py_CLEAR(torch->methods[i]);
    }
    for (int32_t i = 0; i < Y5_CLOCK_COUNT; i++) {
        Py_CLEAR(torch->clock[i]);
    }
    memset(torch, 0, sizeof(*torch));
}

/* owner.attribute as a new reference; None and, where `optional`, absence give NULL. */
static bool
take(PyObject *owner, const char *attribute, bool optional, PyObject **out)
{
    *out = PyObject_GetAttrString(owner, attribute);
    if (*out == NULL && optional && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* AttributeError */
        return true;
    }
    if (*out == Py_None) {
        Py_CLEAR(*out);
    }
    return !PyErr_Occurred();
}

/* Where an object of torch comes from: see state.h. */
typedef enum { TYPE, FACT, IN_C, TENSOR, MODULE } origin;

static bool
take_object(PyObject *facts, const y5_torch *torch, origin from, const char *attribute,
            PyObject **out)
{
    PyObject *owner = from == TENSOR   ? (PyObject *)torch->tensor_base
                      : from == MODULE ? (PyObject *)torch->module_type
                                       : facts;
    if (!take(owner, attribute, from == TENSOR, out)) {
        return false;
    }
    if (from == TYPE && (*out == NULL || !PyType_Check(*out))) {
        PyErr_Format(PyExc_TypeError, "%s: expected a type", attribute);
        return false;
    }
    if ((from == IN_C && *out != NULL && !PyCFunction_Check(*out)) ||
        (from == TENSOR && *out != NULL && Py_TYPE(*out) != &PyMethodDescr_Type)) {
        Py_CLEAR(*out);
    }
    return true;
}

static bool
take_flag(PyObject *facts, const char *attribute, bool *out)
{
    PyObject *given = NULL;
    bool taken = take(facts, attribute, false, &given);
    *out = given == Py_True;
    Py_XDECREF(given);
    return taken;
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
check_facts(const y5_torch *torch)
{
    if (!are_guards(torch->guards)) {
        PyErr_SetString(PyExc_TypeError, "guards: expected a tuple of (callable, str) tuples");
        return false;
    }
    if (torch->byte_types == NULL || torch->version_methods == NULL ||
        !PyTuple_Check(torch->byte_types) || !PyTuple_Check(torch->version_methods) ||
        PyTuple_Size(torch->version_methods) != 3) {
        PyErr_SetString(PyExc_TypeError, "byte_types, version_methods: expected tuples");
        return false;
    }
    return true;
}

static bool
learn(PyObject *facts, y5_torch *torch)
{
#define DESCRIBE_OBJECT(type, name, from, attribute) {from, attribute},
    static const struct {
        origin from;
        const char *attribute;
    } objects[Y5_OBJECT_COUNT] = {Y5_TORCH_OBJECTS(DESCRIBE_OBJECT)};
#undef DESCRIBE_OBJECT
    bool use_exchange = false;
    for (int32_t i = 0; i < Y5_OBJECT_COUNT; i++) {
        if (!take_object(facts, torch, objects[i].from, objects[i].attribute, &torch->objects[i])) {
            return false;
        }
    }
    for (int32_t i = 0; i < Y5_METHOD_COUNT; i++) {
        if (!take((PyObject *)torch->module_type, attribute_names[i], true, &torch->methods[i])) {
            return false;
        }
    }
    if (!check_facts(torch) || !y5_clock_learn(facts, torch) ||
        !take_flag(facts, "increments_lists", &torch->increments_lists) ||
        !take_flag(facts, "half_scalars_stay_float32", &torch->half_scalars_stay_float32) ||
        !take_flag(facts, "use_exchange", &use_exchange)) {
        return false;
    }
    torch->exchange = use_exchange ? y5_find_exchange(torch->tensor_type) : NULL;
    y5_torch_find_pool(torch);
    return !PyErr_Occurred();
}

/* A call that is in progress may use what an earlier registration has told: it stays until no call
 * is. */
struct y5_retired {
    y5_torch torch;
    struct y5_retired *next;
};

static bool
retire_torch(y5_state *state)
{
    struct y5_retired *retired = PyMem_Malloc(sizeof(*retired));
    if (retired == NULL) {
        PyErr_NoMemory();
        return false;
    }
    retired->torch = state->torch;
    retired->next = state->retired;
    state->retired = retired;
    return true;
}

const char y5_doc_register_torch[] = "register_torch(facts)\n--\n\n"
                                     "Tell the extension of torch: an object with the "
                                     "attributes of _native.TorchFacts. Called once\n"
                                     "at import; tests call it again to take the capsule way. "
                                     "True where the exchange table is used.";

PyObject *
y5_py_register_torch(PyObject *module, PyObject *const *arguments, Py_ssize_t count,
                     PyObject *keywords)
{
    static const y5_signature signature = {"register_torch", 1, {"facts"}};
    y5_state *state = PyModule_GetState(module);
    PyObject *values[1];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    y5_torch torch = {0};
    if (!learn(values[0], &torch) || !retire_torch(state)) {
        forget_torch(&torch);
        return NULL;
    }
    state->torch = torch;
    return PyBool_FromLong(torch.exchange != NULL);
}

/* Lets one of the retired go: that may run code which starts calls. */
static void
forget_retired(y5_state *state)
{
    struct y5_retired *retired = state->retired;
    state->retired = retired->next;
    forget_torch(&retired->torch);
    PyMem_Free(retired);
}

void
y5_facts_leave(y5_state *state)
{
    state->calls--;
    if (state->calls == 0 && state->retired != NULL) {
        PyObject *type = NULL;
        PyObject *value = NULL;
        PyObject *traceback = NULL;
        PyErr_Fetch(&type, &value, &traceback); /* objects may end here, and run their own code */
        while (state->calls == 0 && state->retired != NULL) {
            forget_retired(state);
        }
        PyErr_Restore(type, value, traceback);
    }
}

bool
y5_names_make(y5_state *state)
{
    for (int32_t i = 0; i < Y5_NAME_COUNT; i++) {
        state->names[i] = PyUnicode_InternFromString(attribute_names[i]);
        if (state->names[i] == NULL) {
            return false;
        }
    }
    return true;
}

int
y5_facts_traverse(y5_state *state, visitproc visit, void *arg)
{
    for (int32_t i = 0; i < Y5_OBJECT_COUNT; i++) {
        Py_VISIT(state->torch.objects[i]);
    }
    for (int32_t i = 0; i < Y5_METHOD_COUNT; i++) {
        Py_VISIT(state->torch.methods[i]);
    }
    for (int32_t i = 0; i < Y5_CLOCK_COUNT; i++) {
        Py_VISIT(state->torch.clock[i]);
    }
    return 0;
}

void
y5_facts_clear(y5_state *state)
{
    for (int32_t i = 0; i < Y5_NAME_COUNT; i++) {
        Py_CLEAR(state->names[i]);
    }
    forget_torch(&state->torch);
    while (state->retired != NULL) {
        forget_retired(state);
    }
}
