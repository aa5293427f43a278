/* One short function per operation: parse, collect and check, run without the GIL, return.
 * Nothing is written before everything was checked. */
#include "python/bindings.h"

#include "core/ops.h"
#include "python/args.h"
#include "python/collect.h"
#include "python/errors.h"
#include "python/torch_runtime.h"

#include <stdio.h>
#include <string.h>

/* 1 where `function` (which may be NULL) answers with a true value, 0 for a false one, -1 with an
 * exception. */
static int
is_active(PyObject *function)
{
    if (function == NULL) {
        return 0;
    }
    PyObject *answer = PyObject_CallNoArgs(function);
    if (answer == NULL) {
        return -1;
    }
    int truth = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return truth;
}

/* Y5_UNSUPPORTED where torch operations would not do just what they do by default: then they have
 * to be the ones that run. */
static y5_status
check_environment(const y5_state *state, y5_error *error)
{
    if (state->torch.tensor_type == NULL) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "register_torch() was not called");
    }
    const struct {
        PyObject *function;
        const char *reason;
    } guards[] = {
        {state->torch.function_mode_depth, "a torch function mode is active"},
        {state->torch.dispatch_mode_depth, "a torch dispatch mode is active"},
        {state->torch.tracing_state, "inside torch.jit.trace"},
    };
    for (size_t i = 0; i < sizeof(guards) / sizeof(guards[0]); i++) {
        int active = is_active(guards[i].function);
        if (active < 0) {
            return Y5_PYTHON_RAISED;
        }
        if (active) {
            return y5_fail(error, Y5_UNSUPPORTED, "", "%s", guards[i].reason);
        }
    }
    if (y5_flushes_subnormals()) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "subnormal numbers are flushed to zero");
    }
    return Y5_OK;
}

/* Releases the GIL for calls that move enough memory to make it worth while. */
static PyThreadState *
release_gil(const y5_state *state, int64_t bytes)
{
    return bytes >= atomic_load(&state->gil_bytes) ? PyEval_SaveThread() : NULL;
}

static void
take_gil(PyThreadState *released)
{
    if (released != NULL) {
        PyEval_RestoreThread(released);
    }
}

const char y5_doc_ema_update[] =
    "ema_update(average, source, decay)\n--\n\n"
    "Move every floating entry of average.state_dict() towards source's entry of that key:\n"
    "average * decay + source * (1 - decay), each operation rounded. Two nn.Modules and a float.\n"
    "KeyError for a missing key; Unsupported, with nothing changed, where torch must do it.";

PyObject *
y5_py_ema_update(PyObject *module, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    static const y5_signature signature = {"ema_update", 3, {"average", "source", "decay"}};
    const y5_state *state = PyModule_GetState(module);
    PyObject *values[3];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    y5_error error = {0};
    y5_pairs pairs = {0};
    double decay = 0;
    y5_status status = check_environment(state, &error);
    if (status != Y5_OK) {
        goto done;
    }
    if (!PyFloat_CheckExact(values[2])) {
        status = y5_fail(&error, Y5_UNSUPPORTED, "decay", "not a Python float");
        goto done;
    }
    decay = PyFloat_AsDouble(values[2]);
    status = y5_collect_pairs(state, values[0], values[1], &pairs, &error);
    if (status != Y5_OK || pairs.count == 0) {
        goto done;
    }
    status = y5_bump_versions(state, &pairs, &error);
    if (status != Y5_OK) {
        goto done;
    }
    y5_run run = y5_torch_run(state, pairs.in_order ? 0 : pairs.bytes);
    /* `pairs` holds a reference to every tensor, so the pointers stay valid without the GIL. */
    PyThreadState *released = release_gil(state, pairs.bytes);
    y5_ema_update(&run, pairs.items, pairs.starts, pairs.count, decay);
    take_gil(released);
done:
    y5_pairs_free(&pairs);
    if (status != Y5_OK) {
        return y5_raise(state, status, &error);
    }
    Py_RETURN_NONE;
}

const char y5_doc_count_module_zeros[] =
    "count_module_zeros(module)\n--\n\n"
    "(parameters, elements, zeros added up in float32, zeros added up in float64) over\n"
    "module.parameters(). The sums round as the addition of one count after another does; the\n"
    "second is exact below 2**53. Unsupported where torch must do it.";

PyObject *
y5_py_count_module_zeros(PyObject *module, PyObject *const *arguments, Py_ssize_t count,
                         PyObject *keywords)
{
    static const y5_signature signature = {"count_module_zeros", 1, {"module"}};
    const y5_state *state = PyModule_GetState(module);
    PyObject *values[1];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    y5_error error = {0};
    y5_parameters parameters = {0};
    float zeros_float32 = 0;
    double zeros_float64 = 0;
    long long elements = 0;
    long long found = 0;
    y5_status status = check_environment(state, &error);
    if (status == Y5_OK) {
        status = y5_collect_parameters(state, values[0], &parameters, &error);
    }
    if (status == Y5_OK && parameters.count > 0) {
        y5_run run = y5_torch_run(state, parameters.bytes);
        PyThreadState *released = release_gil(state, parameters.bytes);
        y5_sparsity_count(&run, parameters.items, parameters.starts, parameters.count);
        take_gil(released);
        for (int64_t i = 0; i < parameters.count; i++) {
            zeros_float32 += (float)parameters.items[i].zeros;
            zeros_float64 += (double)parameters.items[i].zeros;
        }
        elements = parameters.starts[parameters.count];
        found = parameters.count;
    }
    y5_parameters_free(&parameters);
    if (status != Y5_OK) {
        return y5_raise(state, status, &error);
    }
    return Py_BuildValue("(LLdd)", found, elements, (double)zeros_float32, zeros_float64);
}

const char y5_doc_count_zeros[] =
    "count_zeros(tensor)\n--\n\n"
    "The number of elements equal to zero (-0.0 is, NaN is not) of a torch tensor or any object\n"
    "with __dlpack__ in the CPU's memory; any dtype, shape and strides. Nothing is copied.";

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
        int64_t bytes = tensor.numel * (int64_t)y5_dtype_bytes(tensor.dtype);
        /* The caller's argument keeps the memory alive. */
        PyThreadState *released = release_gil(state, bytes);
        zeros = y5_sparsity_count_tensor(atomic_load(&state->level), &tensor);
        take_gil(released);
    }
    y5_return(&loan);
    if (status != Y5_OK) {
        memcpy(error.argument, "tensor", sizeof("tensor"));
        return y5_raise(state, status, &error);
    }
    return PyLong_FromLongLong(zeros);
}

/* A plain tensor that a call works on; error->argument names it. */
static y5_status
borrow_argument(const y5_state *state, PyObject *object, const char *name, y5_tensor *tensor,
                y5_loan *loan, y5_error *error)
{
    y5_status status = Y5_OK;
    if (!y5_is_plain_tensor(state, object)) {
        status = y5_fail(error, Y5_UNSUPPORTED, "", "not a plain torch.Tensor");
    } else {
        status = y5_borrow(state, object, tensor, loan, error);
    }
    snprintf(error->argument, sizeof(error->argument), "%s", name);
    return status;
}

/* Two integers out of a tuple. */
static y5_status
parse_size(PyObject *given, int64_t size[2], y5_error *error)
{
    bool valid = given != NULL && PyTuple_Check(given) && PyTuple_Size(given) == 2;
    for (Py_ssize_t i = 0; i < 2 && valid; i++) {
        size[i] = PyLong_AsLongLong(PyTuple_GetItem(given, i));
        valid = !PyErr_Occurred();
    }
    if (!valid) {
        PyErr_Clear();
        return y5_fail(error, Y5_BAD_TYPE, "size", "expected a tuple of two integers");
    }
    return Y5_OK;
}

/* The memory traffic that costs as much time as resizing one byte, for the thresholds that are
 * stated in memory traffic. */
#define RESIZE_TRAFFIC 8

const char y5_doc_scale_img[] =
    "scale_img(image, output=None, size=None, variant=0)\n--\n\n"
    "Resize image, (batch, channels, height, width) in float32, to size (height, width) and write\n"
    "it to output, which is as large or larger (the rest becomes 0.447) or smaller (cropped).\n"
    "variant is a sum of 1 (fused index), 2 (fused blend), 4 (four taps). With the image alone:\n"
    "only checks it. Unsupported, with nothing changed, where torch must do it.";

PyObject *
y5_py_scale_img(PyObject *module, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    static const y5_signature signature = {"scale_img", 1, {"image", "output", "size", "variant"}};
    const y5_state *state = PyModule_GetState(module);
    PyObject *values[4];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    y5_error error = {0};
    y5_loan loans[2] = {{0}};
    y5_tensor image = {0};
    y5_tensor output = {0};
    y5_scale_img job;
    int64_t size[2] = {0, 0};
    y5_status status = check_environment(state, &error);
    if (status == Y5_OK) {
        status = borrow_argument(state, values[0], "image", &image, &loans[0], &error);
    }
    if (status == Y5_OK) {
        status = y5_scale_img_check(&image, &error);
    }
    if (status != Y5_OK || values[1] == NULL) {
        goto done;
    }
    status = borrow_argument(state, values[1], "output", &output, &loans[1], &error);
    if (status == Y5_OK) {
        status = parse_size(values[2], size, &error);
    }
    if (status == Y5_OK) {
        int overflow = 0;
        long variant = values[3] != NULL ? PyLong_AsLongAndOverflow(values[3], &overflow) : 0;
        variant = overflow || variant < 0 || variant >= Y5_SCALE_VARIANTS ? -1 : variant;
        status = y5_scale_img_plan(&job, &image, &output, size, (int32_t)variant, &error);
    }
    if (status == Y5_OK) {
        int64_t bytes = (image.numel + output.numel) * (int64_t)sizeof(float) * RESIZE_TRAFFIC;
        y5_run run = y5_torch_run(state, bytes);
        /* The caller's arguments keep both tensors alive. */
        PyThreadState *released = release_gil(state, bytes);
        y5_scale_img_run(&run, &job);
        take_gil(released);
    }
done:
    y5_return(&loans[0]);
    y5_return(&loans[1]);
    if (status != Y5_OK) {
        return y5_raise(state, status, &error);
    }
    Py_RETURN_NONE;
}
