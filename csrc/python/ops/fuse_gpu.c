/* new_convolution, fuse_on_gpu: the module that takes a result, and the tensors of convolutions and
 * batch norms on a CUDA device, which who calls has looked up. */
#include "plan/fuse_gpu.h"

#include "python/args.h"
#include "python/bindings.h"
#include "python/borrowed.h"
#include "python/call.h"
#include "python/environment.h"
#include "python/errors.h"
#include "python/ops/fuse_module.h"

#include <stdio.h>

/* Adds the tensors of one tuple, which the caller holds. */
static y5_status
add_pair(const y5_state *state, PyObject *pair, y5_call *call, y5_gpu_fuse_plan *plan, int64_t at,
         y5_error *error)
{
    if (!PyTuple_Check(pair) || PyTuple_Size(pair) != Y5_FUSE_GPU_ROLES + 1 ||
        !PyFloat_CheckExact(PyTuple_GetItem(pair, Y5_FUSE_GPU_ROLES))) {
        return y5_fail(error, Y5_BAD_TYPE, "pairs", "expected tuples of %d tensors and a float",
                       (int)Y5_FUSE_GPU_ROLES);
    }
    plan->items[at].epsilon = PyFloat_AsDouble(PyTuple_GetItem(pair, Y5_FUSE_GPU_ROLES));
    plan->has_bias[at] = PyTuple_GetItem(pair, Y5_FUSE_BIAS) != Py_None;
    y5_status status = Y5_OK;
    for (y5_fuse_role role = Y5_FUSE_WEIGHT; role < Y5_FUSE_GPU_ROLES && status == Y5_OK; role++) {
        if (role == Y5_FUSE_BIAS && !plan->has_bias[at]) {
            continue;
        }
        uint8_t needs = role < Y5_FUSED_WEIGHT ? Y5_SIGNED : Y5_WRITTEN;
        plan->roles[call->count] = (uint8_t)role;
        status = y5_call_add(state, call, PyTuple_GetItem(pair, role), 1, needs, error);
        if (status != Y5_OK) {
            snprintf(error->argument, sizeof(error->argument), "%s", y5_fuse_name(role));
        }
    }
    return status;
}

static y5_status
collect(const y5_state *state, PyObject *pairs, PyObject *flags, y5_call *call,
        y5_gpu_fuse_plan *plan, y5_error *error)
{
    if (!PyList_Check(pairs)) {
        return y5_fail(error, Y5_BAD_TYPE, "pairs", "expected a list");
    }
    Py_ssize_t count = PyList_Size(pairs);
    y5_status status = y5_gpu_fuse_plan_open(plan, count) ? Y5_OK : Y5_NO_MEMORY;
    for (Py_ssize_t i = 0; i < count && status == Y5_OK; i++) {
        PyObject *pair = y5_list_get(pairs, i); /* other code may have shortened the list */
        status = pair != NULL ? add_pair(state, pair, call, plan, i, error) : Y5_PYTHON_RAISED;
        Py_XDECREF(pair);
    }
    if (status == Y5_OK && !y5_is_plain_tensor(state, flags)) {
        status = y5_fail(error, Y5_BAD_TYPE, "doubtful", "expected a tensor");
    }
    return status == Y5_OK ? y5_call_add(state, call, flags, 1, Y5_WRITTEN, error) : status;
}

const char y5_doc_fuse_on_gpu[] =
    "fuse_on_gpu(pairs, doubtful)\n--\n\n"
    "Fuse tensors of one CUDA device: a list of tuples of a convolution's weight and bias or None, "
    "a\n"
    "batch norm's weight, bias, mean and variance, the results' weight and bias, which are "
    "filled,\n"
    "and epsilon. doubtful, an int32 for each, becomes 1 where a weight or bias of the "
    "convolution\n"
    "is no finite number, for which torch has other results. Unsupported where torch must do it.\n"
    "Returns the number of the device that does it.";

PyObject *
y5_py_fuse_on_gpu(PyObject *module, PyObject *const *arguments, Py_ssize_t count,
                  PyObject *keywords)
{
    static const y5_signature signature = {"fuse_on_gpu", 2, {"pairs", "doubtful"}};
    const y5_state *state = PyModule_GetState(module);
    PyObject *values[2];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    y5_error error = {0};
    y5_call call = {.refused = -1};
    y5_gpu_fuse_plan plan = {0};
    y5_status status = y5_check_environment(state, &error);
    if (status == Y5_OK) {
        status = collect(state, values[0], values[1], &call, &plan, &error);
    }
    if (status == Y5_OK) {
        y5_plan steps = y5_gpu_fuse_plan_steps(&plan);
        status = y5_call_run(state, &call, &steps, &error);
        if (status != Y5_OK && call.refused >= 0 && error.argument[0] == '\0') {
            snprintf(error.argument, sizeof(error.argument), "%s",
                     call.refused < call.count - 1
                         ? y5_fuse_name((y5_fuse_role)plan.roles[call.refused])
                         : "doubtful");
        }
    }
    int32_t device = call.device_index;
    y5_gpu_fuse_plan_free(&plan);
    y5_call_free(&call);
    return status != Y5_OK ? y5_raise(state, status, &error) : PyLong_FromLong(device);
}

/* Memory on the device, and the module that has it as its parameters. */
static y5_status
make_convolution(const y5_state *state, const y5_fuse_module *self, const int64_t shape[4],
                 PyObject *prototype, PyObject *device, PyObject **made)
{
    PyObject *keywords = Py_BuildValue("{s:O}", "device", device);
    PyObject *tensors[2] = {NULL, NULL};
    if (keywords != NULL) {
        tensors[0] = y5_fuse_memory(state, shape, 4, keywords);
    }
    if (tensors[0] != NULL) {
        tensors[1] = y5_fuse_memory(state, shape, 1, keywords);
    }
    if (tensors[1] != NULL) {
        *made = y5_fuse_module_make(state, self, tensors, prototype);
    }
    Py_XDECREF(tensors[1]);
    Py_XDECREF(tensors[0]);
    Py_XDECREF(keywords);
    return *made != NULL ? Y5_OK : Y5_PYTHON_RAISED;
}

const char y5_doc_new_convolution[] =
    "new_convolution(conv, prototype, device)\n--\n\n"
    "A new nn.Conv2d like the prototype (ops/fuse.py) that takes what conv and a batch norm "
    "become:\n"
    "of conv's sizes, with a bias, on the device, not initialised and without gradients.\n"
    "Unsupported where torch must construct it.";

PyObject *
y5_py_new_convolution(PyObject *module, PyObject *const *arguments, Py_ssize_t count,
                      PyObject *keywords)
{
    static const y5_signature signature = {"new_convolution", 3, {"conv", "prototype", "device"}};
    const y5_state *state = PyModule_GetState(module);
    PyObject *values[3];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    y5_error error = {0};
    y5_owner from = {0};
    y5_fuse_module fields = {0};
    int64_t shape[4];
    PyObject *made = NULL;
    y5_status status = y5_check_environment(state, &error);
    if (status == Y5_OK && Py_TYPE(values[1]) != state->torch.convolution_type) {
        status = y5_fail(&error, Y5_BAD_TYPE, "prototype", "expected an nn.Conv2d");
    }
    if (status == Y5_OK && !y5_owner_open(state, values[0], state->torch.convolution_type, &from)) {
        status = Y5_PYTHON_RAISED;
    }
    if (status == Y5_OK) {
        status = y5_fuse_module_read(state, &from, &fields, shape, &error);
    }
    if (status == Y5_OK) {
        status = make_convolution(state, &fields, shape, values[1], values[2], &made);
    }
    y5_owner_close(&from);
    y5_fuse_module_free(&fields);
    return status != Y5_OK ? y5_raise(state, status, &error) : made;
}
