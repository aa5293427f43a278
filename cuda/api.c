/* The exported table, and the question whether this build runs on a device. */
#include "operations.h"

#include <assert.h>

static y5_cuda_status
check_device(int32_t device, y5_cuda_error *error)
{
    const y5_cuda_where where = {NULL, device, 0};
    y5_cuda_call call;
    y5_cuda_status status = y5_cuda_enter(&call, &where, error);
    return status == Y5_CUDA_OK ? y5_cuda_leave(status) : status;
}

static_assert(sizeof(y5_cuda_where) == 16 && sizeof(y5_ema_pair) == 32, "the ABI");
static_assert(sizeof(y5_elements) == 24 && sizeof(y5_fuse_pair) == 96, "the ABI");
static_assert(sizeof(y5_prune_layer) == 40 && sizeof(y5_scale_img) == 96, "the ABI");

__attribute__((visibility("default"))) const y5_cuda_api *y5_cuda_api_get(void);

const y5_cuda_api *
y5_cuda_api_get(void)
{
    static const y5_cuda_api api = {
        .abi_version = Y5_CUDA_ABI_VERSION,
        .struct_bytes = sizeof(y5_cuda_api),
        .toolkit_version = Y5_CUDA_TOOLKIT,
        .architectures = Y5_CUDA_ARCHITECTURES,
        .check_device = check_device,
        .ema_update = y5_cuda_ema_update,
        .sparsity_count = y5_cuda_sparsity_count,
        .fuse = y5_cuda_fuse,
        .prune_workspace_bytes = y5_cuda_prune_workspace_bytes,
        .prune = y5_cuda_prune,
        .scale_img = y5_cuda_scale_img,
        .sparsity_sum = y5_cuda_sparsity_sum,
    };
    return &api;
}
