/* What the extension is told of torch: taken once, checked, and kept for the calls. */
#include "python/torch_facts.h"

#include "python/bindings.h"
#include "python/tensor.h"
#include "python/torch_runtime.h"
#include "python/trail.h"

#include <string.h>

#define SPELL_NAME(constant, name) [constant] = name,
static const char *const attribute_names[Y5_NAME_COUNT] = {Y5_NAMES(SPELL_NAME)};

static void
forget_torch(y5_torch *torch)
{
    for (int32_t i = 0; i < Y5_OWNED_COUNT; i++) {
        Py_CLEAR(torch->owned[i]);
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
    if (torch->getattribute == NULL || torch->empty == NULL || torch->empty_like == NULL ||
        torch->is_grad_enabled == NULL || torch->allocate == NULL) {
        PyErr_SetString(PyExc_TypeError, "facts: None in place of a function that every torch has");
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

/* Takes facts.clock, a tuple of the objects of the Y5_CLOCK enumeration, as new references. False
 * with TypeError set where it is none. */
static bool
learn_clock(PyObject *facts, y5_torch *torch)
{
    PyObject *tuple = PyObject_GetAttrString(facts, "clock");
    if (tuple == NULL) {
        return false;
    }
    bool valid = PyTuple_Check(tuple) && PyTuple_Size(tuple) == Y5_CLOCK_COUNT;
    for (Py_ssize_t i = 0; valid && i < Y5_CLOCK_COUNT; i++) {
        PyObject *object = PyTuple_GetItem(tuple, i);
        valid = i < Y5_CLOCK_MODULES ? PyModule_Check(object) : PyCallable_Check(object) != 0;
    }
    for (Py_ssize_t i = 0; valid && i < Y5_CLOCK_COUNT; i++) {
        torch->clock[i] = PyTuple_GetItem(tuple, i);
        Py_INCREF(torch->clock[i]);
        if (i < Y5_CLOCK_MODULES) {
            torch->clock_dicts[i] = PyModule_GetDict(torch->clock[i]);
        }
    }
    Py_DECREF(tuple);
    if (!valid) {
        PyErr_SetString(PyExc_TypeError, "clock: expected a tuple of 4 modules and 3 functions");
    }
    return valid;
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
        if (!take_object(facts, torch, objects[i].from, objects[i].attribute, &torch->owned[i])) {
            return false;
        }
    }
    for (int32_t i = 0; i < Y5_METHOD_COUNT; i++) {
        if (!take((PyObject *)torch->module_type, attribute_names[i], true, &torch->methods[i])) {
            return false;
        }
    }
    if (!check_facts(torch) || !learn_clock(facts, torch) ||
        !take_flag(facts, "increments_lists", &torch->increments_lists) ||
        !y5_trail_learn(facts, torch) ||
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

const char y5_doc_register_torch[] =
    "register_torch(facts)\n--\n\n"
    "Tell the extension of torch: an object with the attributes of _native.TorchFacts. Called\n"
    "once at import; tests call it again to take the capsule way. True where the exchange table\n"
    "is used.";

const y5_signature y5_signature_register_torch = {false, 1, {"facts"}};

y5_status
y5_py_register_torch(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    (void)error;
    y5_torch torch = {0};
    if (!learn(values[0], &torch) || !retire_torch(state)) {
        forget_torch(&torch);
        return Y5_PYTHON_RAISED;
    }
    state->torch = torch;
    return y5_give(PyBool_FromLong(torch.exchange != NULL), result);
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
    for (int32_t i = 0; i < Y5_OWNED_COUNT; i++) {
        Py_VISIT(state->torch.owned[i]);
    }
    return 0;
}

void
y5_facts_clear(y5_state *state)
{
    for (int32_t i = 0; i < Y5_NAME_COUNT; i++) {
        Py_CLEAR(state->names[i]);
    }
    forget_torch(&state->torch); /* nothing is retired where no call is in progress */
}
