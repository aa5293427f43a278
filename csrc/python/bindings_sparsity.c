/* The counting of zeros: of a model's parameters wherever they are, and of one tensor or array. */
#include "core/ops.h"
#include "python/args.h"
#include "python/bindings.h"
#include "python/collect.h"
#include "python/cuda_calls.h"
#include "python/errors.h"
#include "python/torch_runtime.h"

#include <string.h>

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
    y5_state *state = PyModule_GetState(module);
    PyObject *values[2];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    long long limit = values[1] != NULL ? PyLong_AsLongLong(values[1]) : INT64_MAX;
    if (limit == -1 && PyErr_Occurred()) {
        return NULL;
    }
    y5_error error = {0};
    y5_parameters parameters = {0};
    float sum_float32 = 0;
    double sum_float64 = 0;
    long long elements = 0;
    long long zeros = 0;
    y5_status status = y5_check_environment(state, &error);
    if (status == Y5_OK) {
        status = y5_parameters_collect(state, values[0], &parameters, &error);
    }
    if (status == Y5_OK) {
        status = y5_parameters_borrow(state, &parameters, &error);
    }
    PyObject *counted = NULL; /* on a CUDA device */
    bool on_cpu = parameters.place.cuda == NULL;
    if (status == Y5_OK && !on_cpu) {
        bool each = parameters.starts[parameters.count] > limit;
        status = y5_launch_count_zeros(state, &parameters, each, &counted, &error);
        elements = status == Y5_OK ? parameters.starts[parameters.count] : 0;
    }
    y5_run run = y5_torch_run(state, parameters.bytes);
    if (status == Y5_OK && on_cpu) {
        status = y5_torch_check_pool(state, &run, parameters.bytes, &error);
    }
    if (status == Y5_OK && on_cpu) {
        PyThreadState *released = y5_release_gil(parameters.pinned);
        y5_sparsity_count(&run, parameters.items, parameters.starts, parameters.count);
        y5_take_gil(released);
        for (int64_t i = 0; i < parameters.count; i++) {
            zeros += parameters.items[i].zeros;
            sum_float32 += (float)parameters.items[i].zeros;
            sum_float64 += (double)parameters.items[i].zeros;
        }
        elements = parameters.starts[parameters.count];
    }
    long long found = parameters.count;
    y5_parameters_free(&parameters);
    if (status != Y5_OK) {
        return y5_raise(state, status, &error);
    }
    if (counted != NULL) {
        return Py_BuildValue("(LLN)", found, elements, counted);
    }
    return Py_BuildValue("(LLLdd)", found, elements, zeros, (double)(sum_float32 / (float)elements),
                         sum_float64 / (double)elements);
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
    y5_loan loan = {0};
    y5_tensor tensor;
    int64_t zeros = 0;
    y5_status status = y5_is_plain_tensor(state, values[0])
                           ? y5_borrow(state, values[0], &tensor, &loan, &error)
                           : y5_borrow_foreign(state, values[0], &tensor, &loan, &error);
    if (status == Y5_OK) {
        /* The GIL stays, since nothing else would keep others from replacing the memory. */
        zeros = y5_sparsity_count_tensor(atomic_load(&state->level), &tensor);
    }
    y5_return(&loan);
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
    y5_status status = y5_check_environment(state, &error);
    if (status == Y5_OK) {
        status = y5_launch_sum_zeros(state, values[0], values[1], &error);
    }
    if (status != Y5_OK) {
        return y5_raise(state, status, &error);
    }
    Py_RETURN_NONE;
}
