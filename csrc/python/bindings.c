/* One short function per operation: parse, collect and check, run without the GIL, return.
 * Nothing is written before everything was checked. */
#include "python/bindings.h"

#include "core/ops.h"
#include "python/args.h"
#include "python/collect.h"
#include "python/cuda_calls.h"
#include "python/errors.h"
#include "python/fused_module.h"
#include "python/layers.h"
#include "python/tensors.h"
#include "python/torch_runtime.h"

#include <stdio.h>
#include <string.h>

y5_status
y5_check_environment(const y5_state *state, y5_error *error)
{
    if (state->torch.tensor_type == NULL) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "register_torch() was not called");
    }
    Py_ssize_t count = PyTuple_Size(state->torch.guards);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *function = NULL;
        const char *reason = NULL;
        if (!PyArg_ParseTuple(PyTuple_GetItem(state->torch.guards, i), "Os", &function, &reason)) {
            return Y5_PYTHON_RAISED;
        }
        PyObject *answer = PyObject_CallNoArgs(function);
        int active = answer != NULL ? PyObject_IsTrue(answer) : -1;
        Py_XDECREF(answer);
        if (active != 0) {
            return active < 0 ? Y5_PYTHON_RAISED : y5_fail(error, Y5_UNSUPPORTED, "", "%s", reason);
        }
    }
    if (y5_flushes_subnormals()) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "subnormal numbers are flushed to zero");
    }
    return Y5_OK;
}

const char y5_doc_ema_update[] =
    "ema_update(average, source, decay, done=None)\n--\n\n"
    "Move every floating entry of average.state_dict() towards source's entry of that key:\n"
    "average * decay + source * (1 - decay), each operation rounded. Two nn.Modules and a float.\n"
    "The list done gets a True as soon as nothing can keep the entries from being written.\n"
    "KeyError for a missing key; Unsupported, with nothing changed, where torch must do it.\n"
    "Returns None, or the number of the CUDA device that does it.";

PyObject *
y5_py_ema_update(PyObject *module, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    static const y5_signature signature = {"ema_update", 3, {"average", "source", "decay", "done"}};
    const y5_state *state = PyModule_GetState(module);
    PyObject *values[4];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    y5_error error = {0};
    y5_pairs pairs = {0};
    double decay = 0;
    PyObject *device = NULL;
    y5_status status = y5_check_environment(state, &error);
    if (status != Y5_OK) {
        goto done;
    }
    if (!PyFloat_CheckExact(values[2])) {
        status = y5_fail(&error, Y5_UNSUPPORTED, "decay", "not a Python float");
        goto done;
    }
    decay = PyFloat_AsDouble(values[2]);
    status = y5_pairs_collect(state, values[0], values[1], &pairs, &error);
    if (status == Y5_OK) {
        status = y5_pairs_borrow(state, values[0], values[1], &pairs, &error);
    }
    if (status == Y5_OK && values[3] != NULL && PyList_CheckExact(values[3]) &&
        PyList_Append(values[3], Py_True) < 0) {
        status = Y5_PYTHON_RAISED;
    }
    if (status == Y5_OK && pairs.place.cuda != NULL) {
        status = y5_launch_ema(state, &pairs, decay, &error);
        device = status == Y5_OK ? PyLong_FromLong(pairs.place.index) : NULL;
        goto done;
    }
    if (status != Y5_OK) {
        goto done;
    }
    y5_run run = y5_torch_run(state, pairs.in_order ? -1 : pairs.bytes);
    /* The pointers are valid while the GIL is held, or while `pairs` holds pinned tensors. */
    PyThreadState *released = y5_release_gil(pairs.pinned);
    y5_ema_update(&run, pairs.items, pairs.starts, pairs.count, decay);
    y5_take_gil(released);
    device = Py_None;
    Py_INCREF(device);
done:
    y5_pairs_free(&pairs);
    return status != Y5_OK ? y5_raise(state, status, &error) : device;
}

const char y5_doc_ema_check[] =
    "ema_check(average, source)\n--\n\n"
    "What ema_update would raise of these two nn.Modules, which stay untouched; None where it "
    "would\n"
    "update them.";

PyObject *
y5_py_ema_check(PyObject *module, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    static const y5_signature signature = {"ema_check", 2, {"average", "source"}};
    const y5_state *state = PyModule_GetState(module);
    PyObject *values[2];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    y5_error error = {0};
    y5_pairs pairs = {.only_check = true};
    y5_status status = y5_check_environment(state, &error);
    if (status == Y5_OK) {
        status = y5_pairs_collect(state, values[0], values[1], &pairs, &error);
    }
    if (status == Y5_OK) {
        status = y5_pairs_borrow(state, values[0], values[1], &pairs, &error);
    }
    y5_pairs_free(&pairs);
    if (status != Y5_OK) {
        return y5_raise(state, status, &error);
    }
    Py_RETURN_NONE;
}

const char y5_doc_fuse[] =
    "fuse(convs, bns, pattern)\n--\n\n"
    "A list with, for each convolution of the list convs and its batch norm in the list bns, a "
    "new\n"
    "nn.Conv2d that computes both; pattern says how to make one (ops/fuse.py). Unsupported, with\n"
    "nothing changed, where torch must do one of them.";

/* Collects all pairs, has torch take the roots, and runs the arithmetic. */
static y5_status
fuse_pairs(const y5_state *state, PyObject *convs, PyObject *bns, y5_fusion *fusion,
           y5_error *error)
{
    Py_ssize_t count = PyList_Size(convs);
    y5_status status = y5_fusion_open(fusion, count);
    for (Py_ssize_t i = 0; i < count && status == Y5_OK; i++) {
        PyObject *conv = PyList_GetItem(convs, i); /* Python code may have changed the lists */
        PyObject *bn = conv != NULL ? PyList_GetItem(bns, i) : NULL;
        if (bn == NULL) {
            return Y5_PYTHON_RAISED;
        }
        Py_INCREF(conv);
        Py_INCREF(bn);
        status = y5_fusion_add(state, conv, bn, fusion, error);
        Py_DECREF(bn);
        Py_DECREF(conv);
    }
    if (status == Y5_OK) {
        status = y5_fusion_take_roots(state, fusion, error);
    }
    if (status == Y5_OK) {
        status = y5_fusion_borrow(state, fusion, error);
    }
    if (status == Y5_OK) {
        y5_run run = y5_torch_run(state, fusion->bytes);
        PyThreadState *released = y5_release_gil(fusion->pinned);
        y5_fuse(&run, fusion->items, fusion->starts, fusion->count);
        y5_take_gil(released);
    }
    for (int64_t i = 0; i < fusion->count && status == Y5_OK; i++) {
        if (fusion->items[i].doubtful) {
            status = y5_fail(error, Y5_UNSUPPORTED, "",
                             "weights for which the original's matrix product has bits of its own");
        }
    }
    return status;
}

PyObject *
y5_py_fuse(PyObject *module, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    static const y5_signature signature = {"fuse", 3, {"convs", "bns", "pattern"}};
    const y5_state *state = PyModule_GetState(module);
    PyObject *values[3];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    if (!PyList_Check(values[0]) || !PyList_Check(values[1]) || !PyTuple_Check(values[2])) {
        PyErr_SetString(PyExc_TypeError, "fuse: expected two lists and a tuple");
        return NULL;
    }
    y5_error error = {0};
    y5_fusion fusion = {0};
    PyObject *fused = NULL;
    y5_status status = y5_check_environment(state, &error);
    if (status == Y5_OK) {
        status = fuse_pairs(state, values[0], values[1], &fusion, &error);
    }
    if (status == Y5_OK) {
        fused = PyList_New(0);
        for (int64_t i = 0; fused != NULL && i < fusion.count; i++) {
            PyObject *made = y5_make_fused_module(state, &fusion, i, values[2]);
            if (made == NULL || PyList_Append(fused, made) < 0) {
                Py_CLEAR(fused);
            }
            Py_XDECREF(made);
        }
    }
    y5_fusion_free(&fusion);
    return status != Y5_OK ? y5_raise(state, status, &error) : fused;
}

const char y5_doc_prune[] =
    "prune(weights, pruned, counts, like_torch=False)\n--\n\n"
    "Fill each tensor of the list pruned with the weights at the same place, the counts[i] "
    "smallest\n"
    "by magnitude and position multiplied by 0; largest layer first is fastest. Returns a list of\n"
    "the layers in which the choice among equally small weights shows; with like_torch it is\n"
    "torch.topk's in all others. With None for pruned only the checks are made. Unsupported, with "
    "nothing changed, where torch must do it. Weights on a\n"
    "CUDA device: returns the number of the device that does it, or with None would.";

/* A new list of the numbers of the ambiguous layers. */
static PyObject *
ambiguous_layers(const y5_layers *layers)
{
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list != NULL && i < layers->count; i++) {
        PyObject *number = layers->items[i].ambiguous ? PyLong_FromLongLong(i) : NULL;
        if ((number == NULL && PyErr_Occurred()) ||
            (number != NULL && PyList_Append(list, number) < 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(number);
    }
    return list;
}

PyObject *
y5_py_prune(PyObject *module, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    static const y5_signature signature = {
        "prune", 3, {"weights", "pruned", "counts", "like_torch"}};
    const y5_state *state = PyModule_GetState(module);
    PyObject *values[4];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    int like_torch = values[3] != NULL ? PyObject_IsTrue(values[3]) : 0;
    if (like_torch < 0) {
        return NULL;
    }
    y5_error error = {0};
    y5_layers layers = {0};
    PyObject *result = NULL;
    y5_status status = y5_check_environment(state, &error);
    if (status == Y5_OK) {
        status = y5_collect_layers(state, values[0], values[1], values[2], &layers, &error);
    }
    bool on_cpu = layers.place.cuda == NULL;
    if (status == Y5_OK && !on_cpu) {
        result = PyLong_FromLong(layers.place.index);
    }
    if (status == Y5_OK && !on_cpu && values[1] != Py_None) {
        status = y5_launch_prune(state, values, &layers, &error);
    }
    if (status == Y5_OK && on_cpu && values[1] != Py_None && layers.count > 0) {
        y5_run run = y5_torch_run(state, layers.bytes);
        /* The GIL stays: nothing else would keep others from replacing the weights' memory, and the
         * caller passes batches that last a few milliseconds. */
        y5_prune(&run, layers.items, layers.count, like_torch != 0);
    }
    if (status == Y5_OK && on_cpu) {
        result = ambiguous_layers(&layers);
    }
    y5_layers_free(&layers);
    if (status != Y5_OK) {
        Py_XDECREF(result);
        return y5_raise(state, status, &error);
    }
    return result;
}

/* Borrows one of the tensors of `held`, at one place with those before; error->argument names it.
 */
static y5_status
borrow_held(const y5_state *state, y5_tensors *held, int64_t at, const char *name, y5_place *place,
            y5_tensor *tensor, y5_error *error)
{
    y5_status status = Y5_OK;
    if (!y5_is_plain_tensor(state, held->objects[at])) {
        status = y5_fail(error, Y5_UNSUPPORTED, "", "not a plain torch.Tensor");
    } else {
        status = y5_borrow_anywhere(state, held->objects[at], tensor, &held->loans[at], error);
    }
    if (status == Y5_OK) {
        status = y5_place_add(state, place, held->objects[at], tensor, &held->loans[at], error);
    }
    snprintf(error->argument, sizeof(error->argument), "%s", name);
    return status == Y5_OK ? y5_place_open(state, place, error) : status;
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

/* The memory traffic that costs as much time as resizing one byte of the image and writing what it
 * becomes, for the thresholds that are stated in memory traffic. */
#define RESIZE_TRAFFIC 14

const char y5_doc_scale_img[] =
    "scale_img(image, output=None, size=None, variant=0)\n--\n\n"
    "Resize image, (batch, channels, height, width) in float32, to size (height, width) and write\n"
    "it to output, which is as large or larger (the rest becomes 0.447) or smaller (cropped).\n"
    "variant is a sum of 1 (fused index), 2 (fused blend), 4 (four taps). With the image alone:\n"
    "only checks it. Unsupported, with nothing changed, where torch must do it. Images on a CUDA\n"
    "device: also float16 and bfloat16, any number of channels, variants of y5_cuda.h; returns "
    "the\n"
    "number of the device.";

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
    y5_tensors held = {0};
    y5_tensor image = {0};
    y5_tensor output = {0};
    y5_place place = {0};
    y5_scale_img job;
    int64_t size[2] = {0, 0};
    y5_status status = y5_check_environment(state, &error);
    if (status == Y5_OK && !y5_tensors_append(&held, values, values[1] != NULL ? 2 : 1)) {
        status = Y5_NO_MEMORY;
    }
    if (status == Y5_OK) {
        status = borrow_held(state, &held, 0, "image", &place, &image, &error);
    }
    if (status == Y5_OK) {
        status = place.cuda != NULL ? y5_cuda_scale_img_check(&image, &error)
                                    : y5_scale_img_check(&image, &error);
    }
    if (status != Y5_OK || values[1] == NULL) {
        goto done;
    }
    int64_t bytes = image.numel * (int64_t)sizeof(float) * RESIZE_TRAFFIC;
    bool pinned = place.cuda == NULL && bytes >= atomic_load(&state->gil_bytes);
    if (pinned) { /* from here on aliases are used, whose memory nobody can replace */
        status = y5_tensors_pin(state, &held);
        if (status == Y5_OK) {
            status = borrow_held(state, &held, 0, "image", &place, &image, &error);
        }
    }
    if (status == Y5_OK) {
        status = borrow_held(state, &held, 1, "output", &place, &output, &error);
    }
    if (status == Y5_OK) {
        status = parse_size(values[2], size, &error);
    }
    if (status == Y5_OK) {
        int overflow = 0;
        long given = values[3] != NULL ? PyLong_AsLongAndOverflow(values[3], &overflow) : 0;
        int32_t variant = overflow || given < 0 || given > INT16_MAX ? -1 : (int32_t)given;
        status = place.cuda != NULL
                     ? y5_launch_scale_img(state, &place, &image, &output, size, variant, &error)
                     : y5_scale_img_plan(&job, &image, &output, size, variant, &error);
    }
    if (status == Y5_OK && place.cuda == NULL) {
        y5_run run = y5_torch_run(state, bytes);
        PyThreadState *released = y5_release_gil(pinned);
        y5_scale_img_run(&run, &job);
        y5_take_gil(released);
    }
done:
    y5_tensors_free(&held);
    if (status != Y5_OK) {
        return y5_raise(state, status, &error);
    }
    if (place.cuda != NULL) {
        return PyLong_FromLong(place.index);
    }
    Py_RETURN_NONE;
}
