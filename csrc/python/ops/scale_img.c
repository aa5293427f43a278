/* scale_img: an image and the memory for the resized and padded one. */
#include "plan/scale_img.h"

#include "python/bindings.h"
#include "python/call.h"
#include "python/errors.h"

/* Two integers out of a tuple. Runs no Python code. */
static bool
read_size(PyObject *given, int64_t size[2])
{
    int overflow = 0;
    bool valid = given != NULL && PyTuple_Check(given) && PyTuple_Size(given) == 2;
    for (Py_ssize_t i = 0; i < 2 && valid; i++) {
        PyObject *number = PyTuple_GetItem(given, i);
        valid = PyLong_Check(number);
        size[i] = valid ? PyLong_AsLongLongAndOverflow(number, &overflow) : 0;
        valid = valid && overflow == 0;
    }
    return valid;
}

/* A variant's number; one that no kernel has for what is out of range. */
static bool
read_variant(PyObject *given, int32_t *variant)
{
    int overflow = 0;
    if (given == NULL) {
        return true;
    }
    long long number = PyLong_Check(given) ? PyLong_AsLongLongAndOverflow(given, &overflow) : -1;
    *variant = overflow != 0 || number < 0 || number > INT16_MAX ? -1 : (int32_t)number;
    return PyLong_Check(given) != 0;
}

const char y5_doc_scale_img[] =
    "scale_img(image, output=..., size=..., variant=0)\n--\n\n"
    "Resize image, (batch, channels, height, width) in float32, to size (height, width) and\n"
    "write it to output, which is as large or larger (the rest becomes 0.447) or smaller\n"
    "(cropped). variant is one of csrc/core/ops.h. With the image alone: only checks it.\n"
    "Unsupported, with nothing changed, where torch must do it. Images on a CUDA device: also\n"
    "float16 and bfloat16, any number of channels, variants of y5_cuda.h; returns the number of\n"
    "the device.";

const y5_signature y5_signature_scale_img = {true, 1, {"image", "output", "size", "variant"}};

y5_status
y5_py_scale_img(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    y5_call call = {.refused = -1};
    y5_scale_plan plan = {.writes = values[1] != NULL};
    y5_status status = Y5_OK;
    if (plan.writes && !read_size(values[2], plan.size)) {
        return y5_fail(error, Y5_BAD_TYPE, "size", "expected a tuple of two integers");
    }
    if (!read_variant(values[3], &plan.variant)) {
        return y5_fail(error, Y5_BAD_TYPE, "variant", "expected an integer");
    }
    for (int32_t i = 0; i < (plan.writes ? 2 : 1) && status == Y5_OK; i++) {
        call.refused = i;
        status = y5_call_add(state, &call, values[i], 1, i == 0 ? Y5_SIGNED : Y5_WRITTEN, error);
    }
    if (status == Y5_OK) {
        y5_plan steps = y5_scale_plan_steps(&plan);
        status = y5_call_run(state, &call, &steps, error);
    }
    if (status == Y5_OK) {
        status = y5_call_device(&call, result);
    } else if (error->argument[0] == '\0' && call.refused >= 0) {
        y5_blame(error, y5_signature_scale_img.parameters[call.refused]);
    }
    y5_call_free(&call);
    return status;
}
