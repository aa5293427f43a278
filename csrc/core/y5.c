/* What y5.h declares: the one writer of y5_error, element types, and the order, density and address
 * range of tensors. Knows nothing of any operation. */
#include "core/y5.h"

#include <stdarg.h>
#include <stdio.h>

y5_status
y5_fail(y5_error *error, y5_status status, const char *argument, const char *format, ...)
{
    snprintf(error->argument, sizeof(error->argument), "%s", argument);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof(error->message), format, arguments);
    va_end(arguments);
    return status;
}

bool
y5_dtype_is_floating(y5_dtype dtype)
{
    return dtype < Y5_FLOATING_COUNT || dtype == Y5_FLOAT8 || dtype == Y5_FLOAT8_FNUZ;
}

/* True where the dimensions, in this order from the tightest on (NULL: from the last to the first),
 * multiply up without gaps. Strides of dimensions of size 1 do not matter. */
static bool
is_laid_out(const y5_tensor *tensor, const int8_t *order)
{
    int64_t expected = 1;
    for (int32_t i = 0; i < tensor->ndim && tensor->numel > 0; i++) {
        int32_t dimension = order != NULL ? order[i] : tensor->ndim - 1 - i;
        if (tensor->shape[dimension] != 1 && tensor->strides[dimension] != expected) {
            return false;
        }
        expected *= tensor->shape[dimension];
    }
    return true;
}

bool
y5_tensor_is_contiguous(const y5_tensor *tensor)
{
    return is_laid_out(tensor, NULL);
}

bool
y5_tensor_is_channels_last(const y5_tensor *tensor)
{
    static const int8_t order[] = {1, 3, 2, 0};
    return tensor->ndim == 4 && is_laid_out(tensor, order);
}

bool
y5_tensor_is_dense(const y5_tensor *tensor)
{
    /* The usual case first. */
    if (tensor->numel <= 1 || y5_tensor_is_contiguous(tensor)) {
        return true;
    }
    /* Dense means: some order of the dimensions multiplies up without gap. Each round looks for the
     * dimension whose stride is the product so far. That grows, so that none fits twice; dimensions
     * of size 1 do not matter. */
    int64_t expected = 1;
    for (bool found = true; found;) {
        found = false;
        for (int32_t i = 0; i < tensor->ndim && !found; i++) {
            found = tensor->shape[i] != 1 && tensor->strides[i] == expected;
            expected *= found ? tensor->shape[i] : 1;
        }
    }
    return expected == tensor->numel;
}

bool
y5_tensor_same_order(const y5_tensor *a, const y5_tensor *b)
{
    if (a->ndim != b->ndim) {
        return false;
    }
    for (int32_t i = 0; i < a->ndim; i++) {
        if (a->shape[i] != b->shape[i] || (a->shape[i] != 1 && a->strides[i] != b->strides[i])) {
            return false;
        }
    }
    return true;
}

void
y5_tensor_range(const y5_tensor *tensor, uintptr_t *begin, uintptr_t *end)
{
    *begin = 0;
    *end = 0;
    if (tensor->numel == 0) {
        return;
    }
    int64_t lowest = 0;
    int64_t highest = 0;
    for (int32_t i = 0; i < tensor->ndim; i++) {
        int64_t reach = (tensor->shape[i] - 1) * tensor->strides[i];
        lowest += reach < 0 ? reach : 0;
        highest += reach > 0 ? reach : 0;
    }
    int64_t bytes = (int64_t)y5_dtype_bytes(tensor->dtype);
    *begin = (uintptr_t)((char *)tensor->data + lowest * bytes);
    *end = (uintptr_t)((char *)tensor->data + (highest + 1) * bytes);
}
