/* What several plans say and ask. */
#include "plan/plan.h"

#include <stddef.h>

const char *
y5_not_floating(const y5_tensor *tensor)
{
    return tensor->dtype >= Y5_FLOATING_COUNT ? "not of a floating type known here" : NULL;
}

const char *
y5_not_aligned(const y5_tensor *tensor)
{
    return (uintptr_t)tensor->data % y5_dtype_bytes(tensor->dtype) != 0
               ? "elements are not aligned to their size"
               : NULL;
}

bool
y5_is_workspace(const y5_tensor *tensor, y5_dtype dtype)
{
    return tensor->dtype == dtype && y5_tensor_is_dense(tensor) &&
           (uintptr_t)tensor->data % _Alignof(max_align_t) == 0;
}

y5_status
y5_refuse(y5_error *error, const char *reason)
{
    return reason == NULL ? Y5_OK : y5_fail(error, Y5_UNSUPPORTED, "", "%s", reason);
}

y5_status
y5_cuda_status_of(y5_cuda_status status, const y5_cuda_error *told, y5_error *error)
{
    return status == Y5_CUDA_OK
               ? Y5_OK
               : y5_fail(error, status == Y5_CUDA_FAILED ? Y5_DEVICE_FAILED : Y5_UNSUPPORTED, "",
                         "%s", told->message);
}
