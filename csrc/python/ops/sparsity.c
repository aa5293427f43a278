/* count_module_zeros, count_zeros, sum_zeros: zeros of a model's parameters wherever they are, and
 * of one tensor or array. */
#include "plan/sparsity.h"

#include "python/bindings.h"
#include "python/call.h"
#include "python/errors.h"
#include "python/module_walk.h"

typedef struct {
    const y5_state *state;
    y5_call *call;
} collector;

static y5_status
visit_parameter(void *context, PyObject *object, PyObject *counterpart, const y5_path *path,
                y5_error *error)
{
    (void)counterpart;
    const collector *self = context;
    y5_status status =
        y5_call_add(self->state, self->call, object, Y5_COUNTED, Y5_ANY_BYTES, error);
    if (status == Y5_UNSUPPORTED) {
        y5_path_text(path, error->argument, sizeof(error->argument));
    }
    return status;
}

/* Makes room for the counts on the GPU, one for all or, of more than `limit` elements, one for
 * every parameter, and counts. */
static y5_status
count_on_gpu(const y5_state *state, y5_call *call, y5_sparsity_plan *plan, int64_t limit,
             PyObject **result, y5_error *error)
{
    plan->zeros_count = plan->elements > limit ? plan->count : 1;
    int64_t bytes = plan->zeros_count * (int64_t)sizeof(int64_t);
    y5_status status = y5_call_allocate(state, call, bytes, Y5_COUNTS, error);
    if (status == Y5_OK) {
        y5_plan steps = y5_sparsity_plan_steps(plan);
        status = y5_call_run(state, call, &steps, error);
    }
    if (status != Y5_OK) {
        return status;
    }
    PyObject *zeros = call->held[call->count - 1].object;
    return y5_give(Py_BuildValue("(LLO)", (long long)plan->count, (long long)plan->elements, zeros),
                   result);
}

/* The result on the CPU. */
static PyObject *
shares(const y5_sparsity_plan *plan)
{
    int64_t zeros = 0;
    float sum_float32 = 0;
    double sum_float64 = 0;
    int64_t elements = plan->elements;
    for (int64_t i = 0; i < plan->count; i++) {
        zeros += plan->found[i];
        sum_float32 += (float)plan->found[i];
        sum_float64 += (double)plan->found[i];
    }
    return Py_BuildValue("(LLLdd)", (long long)plan->count, (long long)elements, (long long)zeros,
                         (double)(sum_float32 / (float)elements), sum_float64 / (double)elements);
}

const char y5_doc_count_module_zeros[] =
    "count_module_zeros(module, limit=2**63 - 1)\n--\n\n"
    "(parameters, elements, zeros, float32 share, float64 share) of module.parameters(), each\n"
    "once. The shares are zeros / elements in that type, the zeros of one parameter after the\n"
    "other added up in it; nan without elements. Unsupported where torch must do it. On a CUDA\n"
    "device: (parameters, elements, tensor of bytes there that will hold the zeros as one int64,\n"
    "or with more than `limit` elements as one for each parameter).";

const y5_signature y5_signature_count_module_zeros = {true, 1, {"module", "limit"}};

y5_status
y5_py_count_module_zeros(y5_state *state, PyObject *const *values, PyObject **result,
                         y5_error *error)
{
    long long limit = values[1] != NULL ? PyLong_AsLongLong(values[1]) : INT64_MAX;
    if (limit == -1 && PyErr_Occurred()) {
        return Y5_PYTHON_RAISED;
    }
    y5_trail *trail = y5_trail_begin(state, Y5_TRAIL_PARAMETERS, values[0], NULL);
    y5_call call = {.trail = trail};
    y5_sparsity_plan plan = {0};
    collector context = {state, &call};
    y5_status status =
        y5_walk_parameters(state, trail, values[0], visit_parameter, &context, error);
    if (status == Y5_OK) {
        void *memory = y5_keep(trail, Y5_KEPT_PLAN, y5_sparsity_plan_bytes(call.count));
        status = y5_sparsity_plan_open(&plan, call.count, memory);
    }
    if (status == Y5_OK) {
        y5_plan steps = y5_sparsity_plan_steps(&plan);
        status = y5_call_run(state, &call, &steps, error);
    }
    if (status == Y5_OK) {
        status = call.device == Y5_CUDA ? count_on_gpu(state, &call, &plan, limit, result, error)
                                        : y5_give(shares(&plan), result);
    }
    y5_unkeep(trail, plan.items);
    y5_call_free(&call);
    y5_trail_end(trail);
    return status;
}

const char y5_doc_count_zeros[] =
    "count_zeros(tensor)\n--\n\n"
    "The number of elements equal to zero (-0.0 is, NaN is not) of a torch tensor or any object\n"
    "with __dlpack__ in the CPU's memory; any dtype and strides, up to 12 dimensions; no copy.";

const y5_signature y5_signature_count_zeros = {false, 1, {"tensor"}};

y5_status
y5_py_count_zeros(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    y5_call call = {0};
    y5_count_plan plan = {0};
    y5_plan steps = y5_count_plan_steps(&plan);
    y5_status status = Y5_OK;
    if (!y5_is_plain_tensor(state, values[0])) {
        status = y5_call_run_foreign(state, values[0], &steps, error);
    } else {
        status = y5_call_add(state, &call, values[0], 1, Y5_ANY_BYTES, error);
        if (status == Y5_OK) {
            status = y5_call_run(state, &call, &steps, error);
        }
    }
    y5_call_free(&call);
    if (status != Y5_OK) {
        y5_blame(error, "tensor");
    }
    return status == Y5_OK ? y5_give(PyLong_FromLongLong(plan.zeros), result) : status;
}

const char y5_doc_sum_zeros[] =
    "sum_zeros(zeros, sum)\n--\n\n"
    "Add up the numbers of zeros, an int64 tensor on a CUDA device, one after the other in the\n"
    "type of sum, a float32 or float64 tensor there, whose first element becomes the sum.";

const y5_signature y5_signature_sum_zeros = {true, 2, {"zeros", "sum"}};

y5_status
y5_py_sum_zeros(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    (void)result;
    y5_call call = {0};
    y5_sum_plan plan = {0};
    y5_plan steps = y5_sum_plan_steps(&plan);
    y5_status status = Y5_OK;
    for (Py_ssize_t i = 0; i < 2 && status == Y5_OK; i++) {
        status = y5_is_plain_tensor(state, values[i])
                     ? y5_call_add(state, &call, values[i], 1, i == 1 ? Y5_WRITTEN : 0, error)
                     : y5_fail(error, Y5_BAD_TYPE, y5_signature_sum_zeros.parameters[i],
                               "expected a tensor");
    }
    if (status == Y5_OK) {
        status = y5_call_run(state, &call, &steps, error);
    }
    y5_call_free(&call);
    return status;
}
