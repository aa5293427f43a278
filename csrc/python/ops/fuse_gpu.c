/* new_convolution, fuse_on_gpu: the module that takes a result, and the tensors of convolutions and
 * batch norms on a CUDA device, which who calls has looked up. */
#include "plan/fuse_gpu.h"

#include "python/bindings.h"
#include "python/borrowed.h"
#include "python/call.h"
#include "python/errors.h"
#include "python/ops/fuse_module.h"

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
            y5_blame(error, y5_fuse_name(role));
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
    "Fuse tensors of one CUDA device: a list of tuples of a convolution's weight and bias or\n"
    "None, a batch norm's weight, bias, mean and variance, the results' weight and bias, which\n"
    "are filled, and epsilon. doubtful, an int32 for each, becomes 1 where a weight or bias of\n"
    "the convolution is no finite number, for which torch has other results. Unsupported where\n"
    "torch must do it. Returns the number of the device that does it.";

const y5_signature y5_signature_fuse_on_gpu = {true, 2, {"pairs", "doubtful"}};

y5_status
y5_py_fuse_on_gpu(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    y5_call call = {.refused = -1};
    y5_gpu_fuse_plan plan = {0};
    y5_status status = collect(state, values[0], values[1], &call, &plan, error);
    if (status == Y5_OK) {
        y5_plan steps = y5_gpu_fuse_plan_steps(&plan);
        status = y5_call_run(state, &call, &steps, error);
        if (status != Y5_OK && call.refused >= 0 && error->argument[0] == '\0') {
            y5_blame(error, call.refused < call.count - 1
                                ? y5_fuse_name((y5_fuse_role)plan.roles[call.refused])
                                : "doubtful");
        }
    }
    if (status == Y5_OK) {
        status = y5_call_device(&call, result);
    }
    y5_gpu_fuse_plan_free(&plan);
    y5_call_free(&call);
    return status;
}

/* Memory on the device, and the module that has it as its parameters. */
static PyObject *
make_convolution(const y5_state *state, const y5_fuse_module *self, const int64_t shape[4],
                 PyObject *prototype, PyObject *device)
{
    PyObject *made = NULL;
    PyObject *keywords = Py_BuildValue("{s:O}", "device", device);
    PyObject *tensors[2] = {NULL, NULL};
    if (keywords != NULL) {
        tensors[0] = y5_fuse_memory(state, shape, 4, keywords);
    }
    if (tensors[0] != NULL) {
        tensors[1] = y5_fuse_memory(state, shape, 1, keywords);
    }
    if (tensors[1] != NULL) {
        made = y5_fuse_module_make(state, self, tensors, prototype);
    }
    Py_XDECREF(tensors[1]);
    Py_XDECREF(tensors[0]);
    Py_XDECREF(keywords);
    return made;
}

const char y5_doc_new_convolution[] =
    "new_convolution(conv, prototype, device)\n--\n\n"
    "A new nn.Conv2d like the prototype (ops/fuse.py) that takes what conv and a batch norm\n"
    "become: of conv's sizes, with a bias, on the device, not initialised and without gradients.\n"
    "Unsupported where torch must construct it.";

const y5_signature y5_signature_new_convolution = {true, 3, {"conv", "prototype", "device"}};

y5_status
y5_py_new_convolution(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    y5_owner from = {0};
    y5_fuse_module fields = {0};
    int64_t shape[4];
    if (Py_TYPE(values[1]) != state->torch.convolution_type) {
        return y5_fail(error, Y5_BAD_TYPE, "prototype", "expected an nn.Conv2d");
    }
    y5_status status = Y5_PYTHON_RAISED;
    if (y5_owner_open(state, values[0], state->torch.convolution_type, &from)) {
        status = y5_fuse_module_read(state, &from, &fields, shape, error);
    }
    if (status == Y5_OK) {
        PyObject *made = make_convolution(state, &fields, shape, values[1], values[2]);
        status = y5_give(made, result);
    }
    y5_owner_close(&from);
    y5_fuse_module_free(&fields);
    return status;
}
