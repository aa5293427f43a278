/* Visitors of the module walk, and the borrowing of what they found. */
#include "python/collect.h"

#include "python/module_walk.h"

#include <stdint.h>
#include <string.h>

typedef struct {
    const y5_state *state;
    y5_tensors *tensors;
    PyObject *source; /* the module that the EMA follows */
} collector;

/* Fails with the entry's dotted key in front of a reason. */
static y5_status
refuse(y5_error *error, const y5_path *path, const char *reason)
{
    char key[sizeof(error->argument)];
    y5_path_text(path, key, sizeof(key));
    return y5_fail(error, Y5_UNSUPPORTED, key, "%s", reason);
}

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
        y5_walk_states(self->state, self->source, self->source, visit_nothing, NULL, error);
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
    bool plain = y5_is_plain_tensor(self->state, average) && source != NULL &&
                 y5_is_plain_tensor(self->state, source);
    if (!plain) {
        int floating = y5_is_floating(self->state, average);
        if (floating <= 0) { /* counters and other integers are never averaged */
            return floating < 0 ? Y5_PYTHON_RAISED : Y5_OK;
        }
        if (source == NULL) {
            return missing_entry(self, path, error);
        }
        return refuse(error, path, "a subclass of torch.Tensor, or no tensor");
    }
    PyObject *const objects[2] = {average, source};
    return y5_tensors_append(self->tensors, objects, 2) ? Y5_OK : Y5_NO_MEMORY;
}

y5_status
y5_pairs_collect(const y5_state *state, PyObject *average, PyObject *source, y5_pairs *pairs,
                 y5_error *error)
{
    collector context = {state, &pairs->tensors, source};
    return y5_walk_states(state, average, source, visit_pair, &context, error);
}

/* Finds the key of a pair for a message: the walk is repeated until it meets it. */
typedef struct {
    PyObject *const *objects;
    char *key;
    size_t size;
} key_search;

static y5_status
visit_searching(void *context, PyObject *average, PyObject *source, const y5_path *path,
                y5_error *error)
{
    (void)error;
    key_search *search = context;
    if (average == search->objects[0] && source == search->objects[1]) {
        y5_path_text(path, search->key, search->size);
        return Y5_BAD_VALUE; /* found: any status but Y5_OK ends the walk */
    }
    return Y5_OK;
}

static bool
is_half(y5_dtype dtype)
{
    return dtype == Y5_FLOAT16 || dtype == Y5_BFLOAT16;
}

/* Why two borrowed tensors cannot be updated with the original's bits, or NULL. */
static const char *
pair_refusal(const y5_state *state, const y5_tensor tensors[2])
{
    if (tensors[0].dtype >= Y5_FLOATING_COUNT) {
        return "8-bit floats";
    }
    if (tensors[1].dtype >= Y5_FLOATING_COUNT) {
        return "the model's tensor is not of a floating type known here";
    }
    if (tensors[0].ndim != tensors[1].ndim ||
        memcmp(tensors[0].shape, tensors[1].shape,
               (size_t)tensors[0].ndim * sizeof(tensors[0].shape[0])) != 0) {
        return "shapes differ";
    }
    for (int32_t side = 0; side < 2; side++) {
        if ((uintptr_t)tensors[side].data % y5_dtype_bytes(tensors[side].dtype) != 0) {
            return "elements are not aligned to their size";
        }
    }
    if (!state->torch.half_scalars_stay_float32 &&
        (is_half(tensors[0].dtype) || is_half(tensors[1].dtype))) {
        return "16-bit floats, and torch before 2.1 rounds them otherwise";
    }
    return NULL;
}

/* Gives the pair a layout where it needs one. */
static y5_status
add_layout(y5_ema_pair *pair, const y5_tensor tensors[2], y5_error *error)
{
    if (y5_tensor_same_order(&tensors[0], &tensors[1]) && y5_tensor_is_dense(&tensors[0])) {
        return Y5_OK;
    }
    if (tensors[0].device == Y5_CUDA) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "gaps or another order in memory, on a GPU");
    }
    y5_ema_layout *layout = PyMem_Calloc(1, sizeof(*layout));
    if (layout == NULL) {
        return Y5_NO_MEMORY;
    }
    pair->layout = layout;
    if (!y5_ema_layout_of(layout, &tensors[0], &tensors[1])) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "elements of the average overlap each other");
    }
    return Y5_OK;
}

/* Appends the pair of `objects` to the core's lists; *skipped for one that does not move. */
static y5_status
borrow_pair(const y5_state *state, y5_pairs *pairs, PyObject *const objects[2], y5_loan loans[2],
            bool *skipped, y5_error *error)
{
    y5_tensor tensors[2];
    y5_status status = y5_borrow_anywhere(state, objects[0], &tensors[0], &loans[0], error);
    if (status == Y5_UNSUPPORTED) { /* quantised, sparse: is it one that would have to move? */
        int floating = y5_is_floating(state, objects[0]);
        *skipped = floating == 0;
        return floating < 0 ? Y5_PYTHON_RAISED : floating == 0 ? Y5_OK : status;
    }
    if (status != Y5_OK) {
        return status;
    }
    *skipped = !y5_dtype_is_floating(tensors[0].dtype);
    if (*skipped) {
        return Y5_OK;
    }
    status = y5_place_add(state, &pairs->place, objects[0], &tensors[0], &loans[0], error);
    if (status == Y5_OK) {
        status = y5_borrow_anywhere(state, objects[1], &tensors[1], &loans[1], error);
    }
    if (status == Y5_OK) {
        status = y5_place_add(state, &pairs->place, objects[1], &tensors[1], &loans[1], error);
    }
    if (status != Y5_OK) {
        return status;
    }
    const char *reason = pair_refusal(state, tensors);
    for (int64_t side = 0; side < 2 && reason == NULL; side++) {
        int negated = y5_is_negated(state, objects[side], &tensors[side]);
        if (negated < 0) {
            return Y5_PYTHON_RAISED;
        }
        reason = negated ? "a negative bit is set" : NULL;
    }
    if (reason != NULL) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "%s", reason);
    }
    int64_t at = pairs->count++;
    pairs->items[at] = (y5_ema_pair){
        .average = tensors[0].data,
        .source = tensors[1].data,
        .average_dtype = tensors[0].dtype,
        .source_dtype = tensors[1].dtype,
    };
    for (int64_t side = 0; side < 2; side++) {
        y5_range *range = &pairs->ranges[2 * at + side];
        range->written = side == 0;
        y5_tensor_range(&tensors[side], &range->begin, &range->end);
    }
    pairs->starts[at + 1] = pairs->starts[at] + tensors[0].numel;
    pairs->bytes += tensors[0].numel * (int64_t)(2 * y5_dtype_bytes(tensors[0].dtype) +
                                                 y5_dtype_bytes(tensors[1].dtype));
    return add_layout(&pairs->items[at], tensors, error);
}

static void
free_layouts(y5_pairs *pairs)
{
    for (int64_t i = 0; i < pairs->count; i++) {
        PyMem_Free((void *)pairs->items[i].layout);
        pairs->items[i].layout = NULL;
    }
}

/* Borrows all pairs anew; those that do not move leave the list. *refused is the index of the pair
 * that a failure concerns, -1 where it is no single one. */
static y5_status
borrow_pairs(const y5_state *state, y5_pairs *pairs, int64_t *refused, y5_error *error)
{
    y5_tensors *tensors = &pairs->tensors;
    y5_tensors_return(tensors);
    free_layouts(pairs);
    pairs->count = 0;
    pairs->bytes = 0;
    pairs->place = (y5_place){0};
    pairs->starts[0] = 0;
    int64_t kept = 0;
    y5_status status = Y5_OK;
    for (int64_t i = 0; i < tensors->count; i += 2) {
        PyObject *objects[2] = {tensors->objects[i], tensors->objects[i + 1]};
        y5_loan loans[2] = {{0}, {0}};
        bool skipped = false;
        if (status == Y5_OK) {
            *refused = kept;
            status = borrow_pair(state, pairs, objects, loans, &skipped, error);
        }
        for (int64_t side = 0; side < 2; side++) {
            if (skipped) {
                y5_return(&loans[side]);
                Py_DECREF(objects[side]);
            } else {
                tensors->objects[kept + side] = objects[side];
                tensors->loans[kept + side] = loans[side];
            }
        }
        kept += skipped ? 0 : 2;
    }
    tensors->count = kept;
    if (status == Y5_OK) {
        *refused = -1;
        status = y5_place_open(state, &pairs->place, error);
    }
    return status;
}

static y5_status
check_overlap(y5_pairs *pairs, y5_error *error)
{
    y5_range *scratch = PyMem_Malloc((size_t)(2 * pairs->count + 1) * sizeof(*scratch));
    if (scratch == NULL) {
        return Y5_NO_MEMORY;
    }
    y5_overlap overlap = y5_find_overlap(pairs->ranges, scratch, 2 * pairs->count);
    PyMem_Free(scratch);
    pairs->in_order = overlap == Y5_WRITTEN_TWICE;
    if (pairs->in_order && pairs->place.cuda != NULL) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "entries that share memory, on a GPU");
    }
    if (overlap == Y5_READ_WRITTEN) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "the average shares memory with the model");
    }
    return Y5_OK;
}

static y5_status
bump_versions(const y5_state *state, const y5_pairs *pairs, y5_error *error)
{
    PyObject *list = PyList_New((Py_ssize_t)pairs->count);
    if (list == NULL) {
        return Y5_PYTHON_RAISED;
    }
    for (int64_t i = 0; i < pairs->count; i++) {
        PyObject *average = pairs->tensors.objects[2 * i];
        Py_INCREF(average);
        PyList_SetItem(list, (Py_ssize_t)i, average);
    }
    PyObject *result = PyObject_CallFunctionObjArgs(state->torch.bump_versions, list, NULL);
    Py_DECREF(list);
    if (result == NULL) { /* torch before 2.3 refuses inference tensors here */
        return y5_refused(error, "torch's version counter");
    }
    Py_DECREF(result);
    return Y5_OK;
}

/* Borrows all pairs where they were before, and checks that they are still independent. */
static y5_status
borrow_again(const y5_state *state, y5_pairs *pairs, int64_t *refused, y5_error *error)
{
    y5_place before = pairs->place;
    y5_status status = borrow_pairs(state, pairs, refused, error);
    if (status == Y5_OK) {
        status = y5_place_stayed(&before, &pairs->place, error);
    }
    return status == Y5_OK ? check_overlap(pairs, error) : status;
}

/* Everything of phase 2 but the message's key. Must run with the garbage collector off. */
static y5_status
borrow_and_announce(const y5_state *state, y5_pairs *pairs, int64_t *refused, y5_error *error)
{
    y5_status status = borrow_pairs(state, pairs, refused, error);
    if (status != Y5_OK) {
        return status;
    }
    pairs->pinned = pairs->place.cuda == NULL && pairs->bytes >= atomic_load(&state->gil_bytes);
    if (pairs->pinned) {
        status = y5_tensors_pin(state, &pairs->tensors);
        status = status == Y5_OK ? borrow_again(state, pairs, refused, error) : status;
    } else {
        status = check_overlap(pairs, error);
    }
    if (status == Y5_OK && pairs->count > 0 && !pairs->only_check) {
        status = bump_versions(state, pairs, error);
        /* Python code, in torch before 2.6, may let others replace the tensors' memory. */
        if (status == Y5_OK && !pairs->pinned && !PyCFunction_Check(state->torch.bump_versions)) {
            status = borrow_again(state, pairs, refused, error);
        }
    }
    return status;
}

y5_status
y5_pairs_borrow(const y5_state *state, PyObject *average, PyObject *source, y5_pairs *pairs,
                y5_error *error)
{
    size_t room = (size_t)pairs->tensors.count / 2 + 1;
    pairs->items = PyMem_Malloc(room * sizeof(*pairs->items));
    pairs->starts = PyMem_Malloc((room + 1) * sizeof(*pairs->starts));
    pairs->ranges = PyMem_Malloc(2 * room * sizeof(*pairs->ranges));
    if (pairs->items == NULL || pairs->starts == NULL || pairs->ranges == NULL) {
        return Y5_NO_MEMORY;
    }
    /* A collection could run finalizers, and those any Python code. */
    int collecting = PyGC_Disable();
    int64_t refused = -1;
    y5_status status = borrow_and_announce(state, pairs, &refused, error);
    if (collecting) {
        PyGC_Enable();
    }
    if (status == Y5_UNSUPPORTED && refused >= 0) {
        y5_error ignored;
        key_search search = {&pairs->tensors.objects[refused], error->argument,
                             sizeof(error->argument)};
        (void)y5_walk_states(state, average, source, visit_searching, &search, &ignored);
        PyErr_Clear();
    }
    return status;
}

void
y5_pairs_free(y5_pairs *pairs)
{
    if (pairs->items != NULL) {
        free_layouts(pairs);
    }
    y5_tensors_free(&pairs->tensors);
    PyMem_Free(pairs->items);
    PyMem_Free(pairs->starts);
    PyMem_Free(pairs->ranges);
}

static y5_status
visit_parameter(void *context, PyObject *object, PyObject *counterpart, const y5_path *path,
                y5_error *error)
{
    (void)counterpart;
    const collector *self = context;
    if (!y5_is_plain_tensor(self->state, object)) {
        return refuse(error, path, "a subclass of torch.Tensor, or no tensor");
    }
    return y5_tensors_append(self->tensors, &object, 1) ? Y5_OK : Y5_NO_MEMORY;
}

y5_status
y5_parameters_collect(const y5_state *state, PyObject *module, y5_parameters *parameters,
                      y5_error *error)
{
    collector context = {state, &parameters->tensors, NULL};
    return y5_walk_parameters(state, module, visit_parameter, &context, error);
}

static y5_status
borrow_parameters(const y5_state *state, y5_parameters *parameters, y5_error *error)
{
    y5_tensors *tensors = &parameters->tensors;
    y5_tensors_return(tensors);
    parameters->count = tensors->count;
    parameters->bytes = 0;
    parameters->place = (y5_place){0};
    parameters->starts[0] = 0;
    for (int64_t i = 0; i < tensors->count; i++) {
        y5_tensor tensor;
        y5_status status =
            y5_borrow_anywhere(state, tensors->objects[i], &tensor, &tensors->loans[i], error);
        if (status == Y5_OK) {
            status = y5_place_add(state, &parameters->place, tensors->objects[i], &tensor,
                                  &tensors->loans[i], error);
        }
        if (status != Y5_OK) {
            return status;
        }
        if (!y5_tensor_is_dense(&tensor)) {
            return y5_fail(error, Y5_UNSUPPORTED, "", "a parameter with gaps in its memory");
        }
        y5_zero_count *item = &parameters->items[i];
        item->data = tensor.data;
        item->dtype = tensor.dtype;
        item->zeros = 0;
        parameters->starts[i + 1] = parameters->starts[i] + tensor.numel;
        parameters->bytes += tensor.numel * (int64_t)y5_dtype_bytes(tensor.dtype);
    }
    return y5_place_open(state, &parameters->place, error);
}

y5_status
y5_parameters_borrow(const y5_state *state, y5_parameters *parameters, y5_error *error)
{
    size_t room = (size_t)parameters->tensors.count + 1;
    PyMem_Free(parameters->items);
    PyMem_Free(parameters->starts);
    parameters->items = PyMem_Malloc(room * sizeof(*parameters->items));
    parameters->starts = PyMem_Malloc(room * sizeof(*parameters->starts));
    if (parameters->items == NULL || parameters->starts == NULL) {
        return Y5_NO_MEMORY;
    }
    int collecting = PyGC_Disable();
    y5_status status = borrow_parameters(state, parameters, error);
    parameters->pinned =
        parameters->place.cuda == NULL && parameters->bytes >= atomic_load(&state->gil_bytes);
    if (status == Y5_OK && parameters->pinned) {
        status = y5_tensors_pin(state, &parameters->tensors);
        status = status == Y5_OK ? borrow_parameters(state, parameters, error) : status;
    }
    if (collecting) {
        PyGC_Enable();
    }
    return status;
}

void
y5_parameters_free(y5_parameters *parameters)
{
    y5_tensors_free(&parameters->tensors);
    PyMem_Free(parameters->items);
    PyMem_Free(parameters->starts);
}
