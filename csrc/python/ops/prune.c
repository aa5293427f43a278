/* prune: lists of weights, of the tensors that take the results, and of counts. */
#include "plan/prune.h"

#include "python/bindings.h"
#include "python/borrowed.h"
#include "python/call.h"
#include "python/errors.h"

#include <stdio.h>

/* Adds list[at] to the call. */
static y5_status
add_entry(const y5_state *state, PyObject *list, Py_ssize_t at, uint8_t needs, y5_call *call,
          y5_error *error)
{
    PyObject *tensor = y5_list_get(list, at); /* other code may have shortened it */
    if (tensor == NULL) {
        return Y5_PYTHON_RAISED;
    }
    y5_status status = y5_call_add(state, call, tensor, 1, needs | Y5_SIGNED, error);
    Py_DECREF(tensor);
    if (status == Y5_UNSUPPORTED) {
        call->refused = call->count;
    }
    return status;
}

/* The number of weights to prune; -1 for what is none. */
static y5_status
read_count(PyObject *counts, Py_ssize_t at, int64_t *count)
{
    int overflow = 0;
    PyObject *given = y5_list_get(counts, at);
    if (given == NULL) {
        return Y5_PYTHON_RAISED;
    }
    *count = PyLong_Check(given) ? PyLong_AsLongLongAndOverflow(given, &overflow) : -1;
    Py_DECREF(given);
    return Y5_OK;
}

static y5_status
collect(const y5_state *state, PyObject *const *lists, y5_call *call, y5_prune_plan *plan,
        y5_error *error)
{
    if (!PyList_Check(lists[0]) || !PyList_Check(lists[2]) ||
        (plan->writes && !PyList_Check(lists[1]))) {
        return y5_fail(error, Y5_BAD_TYPE, "", "expected lists");
    }
    Py_ssize_t count = PyList_Size(lists[0]);
    if (PyList_Size(lists[2]) != count || (plan->writes && PyList_Size(lists[1]) != count)) {
        return y5_fail(error, Y5_BAD_VALUE, "", "lists of different lengths");
    }
    if (!y5_prune_plan_open(plan, count) || !y5_call_reserve(call, 2 * count + 1)) {
        return Y5_NO_MEMORY;
    }
    y5_status status = Y5_OK;
    for (Py_ssize_t i = 0; i < count && status == Y5_OK; i++) {
        status = add_entry(state, lists[0], i, 0, call, error);
        if (status == Y5_OK && plan->writes) {
            status = add_entry(state, lists[1], i, Y5_WRITTEN, call, error);
        }
        if (status == Y5_OK) {
            status = read_count(lists[2], i, &plan->wanted[i]);
        }
    }
    return status;
}

/* A new list of the numbers of the ambiguous layers. */
static PyObject *
ambiguous_layers(const y5_prune_plan *plan)
{
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list != NULL && i < plan->count; i++) {
        PyObject *number = plan->items[i].ambiguous ? PyLong_FromLongLong(i) : NULL;
        if ((number == NULL && PyErr_Occurred()) ||
            (number != NULL && PyList_Append(list, number) < 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(number);
    }
    return list;
}

const char y5_doc_prune[] =
    "prune(weights, pruned, counts, like_torch=False)\n--\n\n"
    "Fill each tensor of the list pruned with the weights at the same place, the counts[i]\n"
    "smallest by magnitude and position multiplied by 0; largest layer first is fastest. Returns\n"
    "a list of the layers in which the choice among equally small weights shows; with like_torch\n"
    "it is torch.topk's in all others. With None for pruned only the checks are made.\n"
    "Unsupported, with nothing changed, where torch must do it. Weights on a CUDA device:\n"
    "returns the number of the device that does it, or with None would.";

const y5_signature y5_signature_prune = {true, 3, {"weights", "pruned", "counts", "like_torch"}};

y5_status
y5_py_prune(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    int like_torch = values[3] != NULL ? PyObject_IsTrue(values[3]) : 0;
    if (like_torch < 0) {
        return Y5_PYTHON_RAISED;
    }
    y5_call call = {.refused = -1};
    y5_prune_plan plan = {.writes = values[1] != Py_None, .like_torch = like_torch != 0};
    y5_status status = collect(state, values, &call, &plan, error);
    y5_plan steps = y5_prune_plan_steps(&plan);
    if (status == Y5_OK) {
        status = y5_call_run(state, &call, &steps, error);
    }
    bool on_gpu = call.device == Y5_CUDA;
    if (status == Y5_OK && on_gpu && plan.writes) { /* once more, with a workspace */
        status = y5_call_allocate(state, &call, plan.needed_bytes, 1, error);
        if (status == Y5_OK) {
            status = y5_call_run(state, &call, &steps, error);
        }
    }
    if (status == Y5_OK) {
        status = on_gpu ? y5_call_device(&call, result) : y5_give(ambiguous_layers(&plan), result);
    } else if (error->argument[0] == '\0' && call.refused >= 0 &&
               call.refused < plan.room * (plan.writes ? 2 : 1)) {
        snprintf(error->argument, sizeof(error->argument), "%s %lld",
                 plan.writes && call.refused % 2 != 0 ? "pruned" : "weight",
                 (long long)(call.refused / (plan.writes ? 2 : 1)));
    }
    y5_prune_plan_free(&plan);
    y5_call_free(&call);
    return status;
}
