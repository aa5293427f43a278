/* ema_update, ema_check: the state entries of two modules in pairs. */
#include "plan/ema.h"

#include "python/bindings.h"
#include "python/call.h"
#include "python/errors.h"
#include "python/module_walk.h"

/* Room for the tensors of a small model, so that collecting them need not move them. */
#define USUAL_TENSORS 1024

typedef struct {
    const y5_state *state;
    y5_call *call;
    PyObject *source; /* the module that the EMA follows */
} collector;

static y5_status
visit_nothing(void *context, PyObject *entry, PyObject *counterpart, const y5_path *path,
              y5_error *error)
{
    (void)context;
    (void)entry;
    (void)counterpart;
    (void)path;
    (void)error;
    return Y5_OK;
}

/* KeyError, unless the source has names so odd that the entry may be there under another path. */
static y5_status
missing_entry(const collector *self, const y5_path *path, y5_error *error)
{
    y5_status status =
        y5_walk_states(self->state, NULL, self->source, self->source, visit_nothing, NULL, error);
    PyObject *key = status == Y5_OK ? y5_path_key(path) : NULL;
    if (key != NULL) {
        PyErr_SetObject(PyExc_KeyError, key);
        Py_DECREF(key);
    }
    return status == Y5_OK ? Y5_PYTHON_RAISED : status;
}

static y5_status
visit_pair(void *context, PyObject *average, PyObject *source, const y5_path *path, y5_error *error)
{
    const collector *self = context;
    if (source == NULL || !y5_is_plain_tensor(self->state, average) ||
        !y5_is_plain_tensor(self->state, source)) {
        int floating = y5_is_floating(self->state, average);
        if (floating <= 0) { /* counters and other integers are never averaged */
            return floating < 0 ? Y5_PYTHON_RAISED : Y5_OK;
        }
        return source == NULL ? missing_entry(self, path, error)
                              : y5_refuse_module(error, path, Y5_NO_PLAIN_TENSOR);
    }
    y5_status status = y5_call_add(self->state, self->call, average, 1,
                                   Y5_PAIR_OR_NONE | Y5_SIGNED | Y5_WRITTEN | Y5_ANNOUNCED, error);
    return status == Y5_OK ? y5_call_add(self->state, self->call, source, 1, Y5_SIGNED, error)
                           : status;
}

/* Finds the key of a pair for a message: the walk is repeated until it meets it. */
typedef struct {
    const y5_held *pair;
    y5_error *error;
} key_search;

static y5_status
visit_searching(void *context, PyObject *average, PyObject *source, const y5_path *path,
                y5_error *error)
{
    (void)error;
    const key_search *search = context;
    if (average == search->pair[0].object && source == search->pair[1].object) {
        y5_path_text(path, search->error->argument, sizeof(search->error->argument));
        return Y5_SKIP; /* found: any status but Y5_OK ends the walk */
    }
    return Y5_OK;
}

/* Names the entry that a refusal concerns. */
static y5_status
name_entry(const y5_state *state, PyObject *const *modules, const y5_call *call, y5_error *error)
{
    y5_error ignored;
    key_search search = {&call->held[call->refused & ~(int64_t)1], error};
    y5_status status =
        y5_walk_states(state, NULL, modules[0], modules[1], visit_searching, &search, &ignored);
    return status == Y5_PYTHON_RAISED ? status : Y5_UNSUPPORTED;
}

static void
finish(y5_call *call, y5_ema_plan *plan)
{
    y5_trail *trail = call->trail;
    y5_ema_plan_close(plan);
    y5_unkeep(trail, plan->items);
    y5_call_free(call);
    y5_trail_end(trail);
}

/* The whole update, or with `only_check` all of it but the writing. */
static y5_status
update(const y5_state *state, PyObject *const *modules, y5_call *call, y5_ema_plan *plan,
       bool only_check, y5_error *error)
{
    collector context = {state, call, modules[1]};
    call->trail = y5_trail_begin(state, Y5_TRAIL_EMA, modules[0], modules[1]);
    plan->half_scalars_stay_float32 = state->torch.half_scalars_stay_float32;
    y5_status status = y5_call_reserve(call, USUAL_TENSORS) ? Y5_OK : Y5_NO_MEMORY;
    if (status == Y5_OK) {
        status =
            y5_walk_states(state, call->trail, modules[0], modules[1], visit_pair, &context, error);
    }
    if (status == Y5_OK) {
        int64_t pairs = call->count / 2;
        void *memory = y5_keep(call->trail, Y5_KEPT_PLAN, y5_ema_plan_bytes(pairs));
        status = y5_ema_plan_open(plan, pairs, memory);
    }
    if (status != Y5_OK) {
        return status;
    }
    y5_plan steps = y5_ema_plan_steps(plan);
    if (only_check) {
        steps.run = NULL;
        steps.launch = NULL;
    }
    status = y5_call_run(state, call, &steps, error);
    return status == Y5_UNSUPPORTED && call->refused >= 0 ? name_entry(state, modules, call, error)
                                                          : status;
}

const char y5_doc_ema_update[] =
    "ema_update(average, source, decay, done=None)\n--\n\n"
    "Move every floating entry of average.state_dict() towards source's entry of that key:\n"
    "average * decay + source * (1 - decay), each operation rounded. Two nn.Modules and a float.\n"
    "KeyError for a missing key; Unsupported, with nothing changed, where torch must do it.\n"
    "Returns None, or the number of the CUDA device that does it. The list `done` gets a True\n"
    "with the update, whatever a signal handler raises after it.";

/* Marks the list before the update: afterwards, nothing may fail. */
static y5_status
mark(PyObject *done)
{
    return done == NULL || PyList_Append(done, Py_True) == 0 ? Y5_OK : Y5_PYTHON_RAISED;
}

/* Takes the mark of an update that was not made back, with its exception kept. */
static void
unmark(PyObject *done)
{
    PyObject *type = NULL;
    PyObject *value = NULL;
    PyObject *traceback = NULL;
    Py_ssize_t count = done != NULL ? PyList_Size(done) : 0;
    PyErr_Fetch(&type, &value, &traceback);
    if (count > 0) {
        (void)PyList_SetSlice(done, count - 1, count, NULL); /* needs no memory for one item */
    }
    PyErr_Restore(type, value, traceback);
}

const y5_signature y5_signature_ema_update = {true, 3, {"average", "source", "decay", "done"}};

y5_status
y5_py_ema_update(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    PyObject *done = values[3] != Py_None ? values[3] : NULL;
    y5_call call = {0};
    y5_ema_plan plan = {0};
    if (done != NULL && !PyList_CheckExact(done)) {
        return y5_fail(error, Y5_BAD_TYPE, "done", "expected a list");
    }
    if (!PyFloat_CheckExact(values[2])) {
        return y5_fail(error, Y5_UNSUPPORTED, "decay", "not a Python float");
    }
    y5_status status = mark(done);
    if (status == Y5_OK) {
        plan.decay = PyFloat_AsDouble(values[2]);
        status = update(state, values, &call, &plan, false, error);
        if (status != Y5_OK) {
            unmark(done);
        }
    }
    if (status == Y5_OK) {
        status = y5_call_device(&call, result);
    }
    finish(&call, &plan);
    return status;
}

const char y5_doc_ema_check[] =
    "ema_check(average, source)\n--\n\n"
    "What ema_update would raise of these two nn.Modules, which stay untouched; None where it\n"
    "would update them.";

const y5_signature y5_signature_ema_check = {true, 2, {"average", "source"}};

y5_status
y5_py_ema_check(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    (void)result;
    y5_call call = {0};
    y5_ema_plan plan = {0};
    y5_status status = update(state, values, &call, &plan, true, error);
    finish(&call, &plan);
    return status;
}
