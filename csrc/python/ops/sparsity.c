/* count_module_zeros, count_zeros, sum_zeros: zeros of a model's parameters wherever they are, and
 * of one tensor or array. */
#include "plan/sparsity.h"

#include "python/args.h"
#include "python/bindings.h"
#include "python/call.h"
#include "python/environment.h"
#include "python/errors.h"
#include "python/module_walk.h"

#include <string.h>

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

/* Makes room for the counts on the GPU, one for all or with `each` one for every parameter, and
 * counts. */
static y5_status
count_on_gpu(const y5_state *state, y5_call *call, y5_sparsity_plan *plan, bool each,
             PyObject **zeros, y5_error *error)
{
    plan->zeros_count = each ? plan->count : 1;
    int64_t bytes = plan->zeros_count * (int64_t)sizeof(int64_t);
    y5_status status = y5_call_allocate(state, call, bytes, zeros);
    if (status == Y5_OK) {
        status = y5_call_add(state, call, *zeros, Y5_COUNTS, Y5_WRITTEN, error);
    }
    if (status == Y5_OK) {
        y5_plan steps = y5_sparsity_plan_steps(plan);
        status = y5_call_run(state, call, &steps, error);
    }
    if (status != Y5_OK) {
        Py_CLEAR(*zeros);
    }
    return status;
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
    "(parameters, elements, zeros, float32 share, float64 share) of module.parameters(), each "
    "once.\n"
    "The shares are zeros / elements in that type, the zeros of one parameter after the other "
    "added\n"
    "up in it; nan without elements. Unsupported where torch must do it. On a CUDA device:\n"
    "(parameters, elements, tensor of bytes there that will hold the zeros as one int64, or with "
    "more\n"
    "than `limit` elements as one for each parameter).";

PyObject *
y5_py_count_module_zeros(PyObject *module, PyObject *const *arguments, Py_ssize_t count,
                         PyObject *keywords)
{
    static const y5_signature signature = {"count_module_zeros", 1, {"module", "limit"}};
    const y5_state *state = PyModule_GetState(module);
    PyObject *values[2];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    long long limit = values[1] != NULL ? PyLong_AsLongLong(values[1]) : INT64_MAX;
    if (limit == -1 && PyErr_Occurred()) {
        return NULL;
    }
    y5_error error = {0};
    y5_call call = {0};
    y5_sparsity_plan plan = {0};
    PyObject *zeros = NULL; /* on a CUDA device */
    PyObject *result = NULL;
    collector context = {state, &call};
    y5_status status = y5_check_environment(state, &error);
    if (status == Y5_OK) {
        status = y5_walk_parameters(state, values[0], visit_parameter, &context, &error);
    }
    if (status == Y5_OK && !y5_sparsity_plan_open(&plan, call.count)) {
        status = Y5_NO_MEMORY;
    }
    if (status == Y5_OK) {
        y5_plan steps = y5_sparsity_plan_steps(&plan);
        status = y5_call_run(state, &call, &steps, &error);
    }
    bool on_gpu = call.device == Y5_CUDA;
    if (status == Y5_OK && on_gpu) {
        bool each = plan.elements > limit;
        status = count_on_gpu(state, &call, &plan, each, &zeros, &error);
    }
    if (status == Y5_OK) {
        result =
            on_gpu ? Py_BuildValue("(LLN)", (long long)plan.count, (long long)plan.elements, zeros)
                   : shares(&plan);
    }
    y5_sparsity_plan_free(&plan);
    y5_call_free(&call);
    return status != Y5_OK ? y5_raise(state, status, &error) : result;
}

/* Zeros of a plain tensor, whose memory others could replace. */
static y5_status
count_tensor(const y5_state *state, PyObject *object, int64_t *zeros, y5_error *error)
{
    y5_call call = {0};
    y5_count_plan plan = {0};
    y5_plan steps = y5_count_plan_steps(&plan);
    y5_status status = y5_call_add(state, &call, object, 1, Y5_ANY_BYTES, error);
    if (status == Y5_OK) {
        status = y5_call_run(state, &call, &steps, error);
    }
    *zeros = plan.zeros;
    y5_call_free(&call);
    return status;
}

/* Zeros of what any producer lends. */
static y5_status
count_foreign(const y5_state *state, PyObject *object, int64_t *zeros, y5_error *error)
{
    y5_loan loan = {0};
    y5_tensor tensor;
    y5_status status = y5_borrow_foreign(state, object, &tensor, &loan, error);
    if (status == Y5_OK) {
        *zeros = y5_sparsity_count_tensor(atomic_load(&state->level), &tensor);
    }
    y5_return(&loan);
    return status;
}

const char y5_doc_count_zeros[] =
    "count_zeros(tensor)\n--\n\n"
    "The number of elements equal to zero (-0.0 is, NaN is not) of a torch tensor or any object\n"
    "with __dlpack__ in the CPU's memory; any dtype and strides, up to 12 dimensions; no copy.";

PyObject *
y5_py_count_zeros(PyObject *module, PyObject *const *arguments, Py_ssize_t count,
                  PyObject *keywords)
{
    static const y5_signature signature = {"count_zeros", 1, {"tensor"}};
    const y5_state *state = PyModule_GetState(module);
    PyObject *values[1];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    y5_error error = {0};
    int64_t zeros = 0;
    y5_status status = y5_is_plain_tensor(state, values[0])
                           ? count_tensor(state, values[0], &zeros, &error)
                           : count_foreign(state, values[0], &zeros, &error);
    if (status != Y5_OK) {
        memcpy(error.argument, "tensor", sizeof("tensor"));
        return y5_raise(state, status, &error);
    }
    return PyLong_FromLongLong(zeros);
}

const char y5_doc_sum_zeros[] =
    "sum_zeros(zeros, sum)\n--\n\n"
    "Add up the numbers of zeros, an int64 tensor on a CUDA device, one after the other in the "
    "type\n"
    "of sum, a float32 or float64 tensor there, whose first element becomes the sum.";

PyObject *
y5_py_sum_zeros(PyObject *module, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    static const y5_signature signature = {"sum_zeros", 2, {"zeros", "sum"}};
    const y5_state *state = PyModule_GetState(module);
    PyObject *values[2];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    y5_error error = {0};
    y5_call call = {0};
    y5_sum_plan plan = {0};
    y5_status status = y5_check_environment(state, &error);
    for (Py_ssize_t i = 0; i < 2 && status == Y5_OK; i++) {
        status = y5_is_plain_tensor(state, values[i])
                     ? y5_call_add(state, &call, values[i], 1, i == 1 ? Y5_WRITTEN : 0, &error)
                     : y5_fail(&error, Y5_BAD_TYPE, signature.parameters[i], "expected a tensor");
    }
    if (status == Y5_OK) {
        y5_plan steps = y5_sum_plan_steps(&plan);
        status = y5_call_run(state, &call, &steps, &error);
    }
    y5_call_free(&call);
    if (status != Y5_OK) {
        return y5_raise(state, status, &error);
    }
    Py_RETURN_NONE;
}
