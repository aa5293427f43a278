/* Translates borrowed tensors into the CUDA library's items and calls it. */
#include "python/cuda_calls.h"

#include "python/cuda_loader.h"

_Static_assert((int)Y5_CUDA_FLOAT32 == (int)Y5_FLOAT32 &&
                   (int)Y5_CUDA_FLOATING_COUNT == (int)Y5_FLOATING_COUNT &&
                   (int)Y5_CUDA_COMPLEX128 == (int)Y5_COMPLEX128 &&
                   (int)Y5_CUDA_INT8 == (int)Y5_INT8 && (int)Y5_CUDA_INT64 == (int)Y5_INT64 &&
                   (int)Y5_CUDA_FLOAT8_FNUZ == (int)Y5_FLOAT8_FNUZ &&
                   (int)Y5_CUDA_DTYPE_COUNT == (int)Y5_DTYPE_COUNT,
               "element types have the same numbers on both sides");

/* Room for `count` items, which may be none. */
static void *
new_list(int64_t count, size_t item_bytes)
{
    return PyMem_Calloc((size_t)count + 1, item_bytes);
}

/* torch's stream on the place's device. */
static y5_status
find_where(const y5_state *state, const y5_place *place, y5_cuda_where *where, y5_error *error)
{
    *where = (y5_cuda_where){.device = place->index};
    return y5_current_stream(state, place->index, &where->stream, error);
}

/* The memory of a tensor that the caller holds and that nobody else replaces, at the place. */
static y5_status
open_memory(const y5_state *state, PyObject *memory, y5_place *place, y5_tensor *tensor,
            y5_error *error)
{
    y5_loan loan = {0};
    y5_status status = y5_borrow_anywhere(state, memory, tensor, &loan, error);
    if (status == Y5_OK) {
        status = y5_place_add(state, place, memory, tensor, &loan, error);
    }
    y5_return(&loan);
    return status;
}

y5_status
y5_launch_ema(const y5_state *state, const y5_pairs *pairs, double decay, y5_error *error)
{
    y5_cuda_where where;
    y5_cuda_error told = {0};
    y5_cuda_ema_pair *items = new_list(pairs->count, sizeof(*items));
    y5_status status =
        items != NULL ? find_where(state, &pairs->place, &where, error) : Y5_NO_MEMORY;
    if (status == Y5_OK && pairs->count > 0) {
        for (int64_t i = 0; i < pairs->count; i++) {
            const y5_ema_pair *pair = &pairs->items[i];
            items[i] = (y5_cuda_ema_pair){
                .average = pair->average,
                .source = pair->source,
                .numel = pairs->starts[i + 1] - pairs->starts[i],
                .average_dtype = (int32_t)pair->average_dtype,
                .source_dtype = (int32_t)pair->source_dtype,
            };
        }
        status = y5_cuda_status_of(
            pairs->place.cuda->ema_update(&where, items, pairs->count, decay, &told), &told, error);
    }
    PyMem_Free(items);
    return status;
}

y5_status
y5_launch_count_zeros(const y5_state *state, y5_parameters *parameters, bool each, PyObject **zeros,
                      y5_error *error)
{
    y5_cuda_where where;
    y5_tensor result = {0};
    y5_cuda_error told = {0};
    y5_cuda_zero_count *items = NULL;
    y5_place before = parameters->place;
    int64_t count = each ? parameters->count : 1;
    y5_status status = y5_place_allocate(state, &before, count * (int64_t)sizeof(int64_t), zeros);
    if (status == Y5_OK) {
        status = y5_parameters_borrow(state, parameters, error);
    }
    if (status == Y5_OK) {
        status = y5_place_stayed(&before, &parameters->place, error);
    }
    if (status == Y5_OK) {
        status = find_where(state, &parameters->place, &where, error);
    }
    if (status == Y5_OK) {
        status = open_memory(state, *zeros, &parameters->place, &result, error);
    }
    if (status != Y5_OK) {
        goto done;
    }
    items = new_list(parameters->count, sizeof(*items));
    if (items == NULL) {
        status = Y5_NO_MEMORY;
        goto done;
    }
    for (int64_t i = 0; i < parameters->count; i++) {
        items[i] = (y5_cuda_zero_count){
            .data = parameters->items[i].data,
            .numel = parameters->starts[i + 1] - parameters->starts[i],
            .dtype = (int32_t)parameters->items[i].dtype,
        };
    }
    status = y5_cuda_status_of(parameters->place.cuda->sparsity_count(
                                   &where, items, parameters->count, result.data, count, &told),
                               &told, error);
done:
    PyMem_Free(items);
    if (status != Y5_OK) {
        Py_CLEAR(*zeros);
    }
    return status;
}

y5_status
y5_launch_sum_zeros(const y5_state *state, PyObject *zeros, PyObject *sum, y5_error *error)
{
    y5_cuda_where where;
    y5_place place = {0};
    y5_cuda_error told = {0};
    y5_tensor tensors[2] = {0};
    PyObject *const objects[2] = {zeros, sum};
    y5_status status = Y5_OK;
    for (int32_t i = 0; i < 2 && status == Y5_OK; i++) {
        status = y5_is_plain_tensor(state, objects[i])
                     ? open_memory(state, objects[i], &place, &tensors[i], error)
                     : y5_fail(error, Y5_BAD_TYPE, i == 0 ? "zeros" : "sum", "expected a tensor");
    }
    if (status == Y5_OK && (tensors[0].dtype != Y5_INT64 || !y5_tensor_is_dense(&tensors[0]))) {
        status = y5_fail(error, Y5_BAD_VALUE, "zeros", "expected int64, side by side");
    }
    if (status == Y5_OK && (tensors[1].numel < 1 ||
                            (tensors[1].dtype != Y5_FLOAT32 && tensors[1].dtype != Y5_FLOAT64))) {
        status = y5_fail(error, Y5_BAD_VALUE, "sum", "expected room for a float32 or float64");
    }
    if (status == Y5_OK && place.device != Y5_CUDA) {
        status = y5_fail(error, Y5_BAD_VALUE, "zeros", "not on a CUDA device");
    }
    if (status == Y5_OK) {
        status = y5_place_open(state, &place, error);
    }
    if (status == Y5_OK) {
        status = find_where(state, &place, &where, error);
    }
    return status != Y5_OK
               ? status
               : y5_cuda_status_of(
                     place.cuda->sparsity_sum(&where, tensors[0].data, tensors[0].numel,
                                              (int32_t)tensors[1].dtype, tensors[1].data, &told),
                     &told, error);
}

/* The layers as the library's list, or NULL without memory. */
static y5_cuda_prune_layer *
prune_list(const y5_layers *layers)
{
    y5_cuda_prune_layer *items = new_list(layers->count, sizeof(*items));
    for (int64_t i = 0; items != NULL && i < layers->count; i++) {
        const y5_prune_layer *layer = &layers->items[i];
        items[i] = (y5_cuda_prune_layer){
            .weights = layer->weights,
            .pruned = layer->pruned,
            .numel = layer->numel,
            .count = layer->count,
            .dtype = (int32_t)layer->dtype,
        };
    }
    return items;
}

/* Takes the workspace, whose allocation runs Python code, and collects the layers after it. */
static y5_status
prepare_prune(const y5_state *state, PyObject *const *lists, y5_layers *layers,
              PyObject **workspace, y5_error *error)
{
    y5_cuda_prune_layer *items = prune_list(layers);
    if (items == NULL) {
        return Y5_NO_MEMORY;
    }
    int64_t bytes = layers->place.cuda->prune_workspace_bytes(items, layers->count);
    PyMem_Free(items);
    y5_place before = layers->place;
    y5_status status = y5_place_allocate(state, &before, bytes, workspace);
    y5_layers_free(layers);
    if (status == Y5_OK) {
        status = y5_collect_layers(state, lists[0], lists[1], lists[2], layers, error);
    }
    return status == Y5_OK ? y5_place_stayed(&before, &layers->place, error) : status;
}

y5_status
y5_launch_prune(const y5_state *state, PyObject *const *lists, y5_layers *layers, y5_error *error)
{
    y5_cuda_where where;
    y5_tensor memory = {0};
    y5_cuda_error told = {0};
    PyObject *workspace = NULL;
    y5_cuda_prune_layer *items = NULL;
    y5_status status = prepare_prune(state, lists, layers, &workspace, error);
    if (status == Y5_OK) {
        status = find_where(state, &layers->place, &where, error);
    }
    if (status == Y5_OK) {
        status = open_memory(state, workspace, &layers->place, &memory, error);
    }
    if (status == Y5_OK) {
        items = prune_list(layers);
        status = items != NULL ? Y5_OK : Y5_NO_MEMORY;
    }
    if (status == Y5_OK &&
        layers->place.cuda->prune_workspace_bytes(items, layers->count) > memory.numel) {
        status = y5_fail(error, Y5_UNSUPPORTED, "", "the weights were replaced meanwhile");
    }
    if (status == Y5_OK) {
        status = y5_cuda_status_of(layers->place.cuda->prune(&where, items, layers->count,
                                                             memory.data, memory.numel, &told),
                                   &told, error);
    }
    PyMem_Free(items);
    Py_XDECREF(workspace);
    return status;
}

/* Elements of one image, and rows or columns, that torch's kernels count in 32 bits. */
#define COUNTED_IN_32_BITS ((int64_t)INT32_MAX)

/* True where memory walks row by row, or with `interleaved` pixel by pixel with all channels side
 * by side. Strides of dimensions of size 1 do not matter. */
static bool
is_laid_out(const y5_tensor *tensor, bool interleaved)
{
    static const int32_t order[2][4] = {{3, 2, 1, 0}, {1, 3, 2, 0}};
    int64_t expected = 1;
    for (int32_t i = 0; i < 4; i++) {
        int32_t dimension = order[interleaved][i];
        if (tensor->shape[dimension] != 1 && tensor->strides[dimension] != expected) {
            return false;
        }
        expected *= tensor->shape[dimension];
    }
    return true;
}

y5_status
y5_cuda_scale_img_check(const y5_tensor *image, y5_error *error)
{
    if (image->ndim != 4) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "%d dimensions, not 4", (int)image->ndim);
    }
    if (image->dtype != Y5_FLOAT32 && image->dtype != Y5_FLOAT16 && image->dtype != Y5_BFLOAT16) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "not float32, float16 or bfloat16");
    }
    if (image->numel == 0) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "no elements");
    }
    if (image->numel > COUNTED_IN_32_BITS) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "2^31 elements or more");
    }
    if (image->shape[1] > Y5_CUDA_SCALE_SIDE_LIMIT || image->shape[2] > Y5_CUDA_SCALE_SIDE_LIMIT ||
        image->shape[3] > Y5_CUDA_SCALE_SIDE_LIMIT) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "more than 2^22 channels, rows or columns");
    }
    if (!is_laid_out(image, false) && !is_laid_out(image, true)) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "neither contiguous nor channels last");
    }
    return Y5_OK;
}

y5_status
y5_launch_scale_img(const y5_state *state, const y5_place *place, const y5_tensor *image,
                    const y5_tensor *output, const int64_t resized[2], int32_t variant,
                    y5_error *error)
{
    if (output->ndim != 4 || output->dtype != image->dtype || output->shape[0] != image->shape[0] ||
        output->shape[1] != image->shape[1]) {
        return y5_fail(error, Y5_BAD_VALUE, "output",
                       "expected 4 dimensions and the image's dtype, batch and channels");
    }
    bool interleaved = !(is_laid_out(image, false) && is_laid_out(output, false));
    if (interleaved && !(is_laid_out(image, true) && is_laid_out(output, true))) {
        return y5_fail(error, Y5_BAD_VALUE, "output", "not in the image's order of dimensions");
    }
    if (variant < 0 || variant >= Y5_CUDA_SCALE_VARIANTS) {
        return y5_fail(error, Y5_BAD_VALUE, "variant", "allowed on a GPU are 0 to %d",
                       Y5_CUDA_SCALE_VARIANTS - 1);
    }
    for (int32_t i = 0; i < 2; i++) {
        if (resized[i] < 1) {
            return y5_fail(error, Y5_BAD_VALUE, "size", "rows and columns from 1 are allowed");
        }
        if (resized[i] > Y5_CUDA_SCALE_SIDE_LIMIT ||
            output->shape[2 + i] > Y5_CUDA_SCALE_SIDE_LIMIT) {
            return y5_fail(error, Y5_UNSUPPORTED, "image",
                           "more than 2^22 rows or columns of the result");
        }
    }
    if (output->numel > COUNTED_IN_32_BITS) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "2^31 elements of the result or more");
    }
    y5_cuda_scale_img job = {
        .image = image->data,
        .output = output->data,
        .planes = interleaved ? image->shape[0] : image->shape[0] * image->shape[1],
        .interleaved = interleaved ? image->shape[1] : 1,
        .input_rows = image->shape[2],
        .input_columns = image->shape[3],
        .resized_rows = resized[0],
        .resized_columns = resized[1],
        .output_rows = output->shape[2],
        .output_columns = output->shape[3],
        .dtype = (int32_t)image->dtype,
        .variant = variant,
    };
    y5_cuda_where where;
    y5_cuda_error told = {0};
    y5_status status = find_where(state, place, &where, error);
    return status != Y5_OK
               ? status
               : y5_cuda_status_of(place->cuda->scale_img(&where, &job, &told), &told, error);
}
