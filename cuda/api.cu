/* The exported table, and the question whether this build runs on a device. */
#include "launch.cuh"
#include "operations.h"

namespace y5 {

y5_cuda_status
check_device(int32_t device, y5_cuda_error *error)
{
    y5_cuda_where where = {NULL, device, 0};
    int count = 0;
    y5_cuda_status status = check(cudaGetDeviceCount(&count), "counting devices", device, error);
    if (status == Y5_CUDA_OK && (device < 0 || device >= count)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "there is no device %d, only %d in all",
                    (int)device, count);
    }
    device_guard guard;
    if (status == Y5_CUDA_OK) {
        status = guard.enter(&where, error);
    }
    if (status == Y5_CUDA_OK) { /* loads the code for this chip, or finds that there is none */
        status = load_a_kernel(device, error);
    }
    return status;
}

static_assert(sizeof(y5_cuda_where) == 16 && sizeof(y5_cuda_ema_pair) == 32, "the ABI");
static_assert(sizeof(y5_cuda_zero_count) == 24 && sizeof(y5_cuda_fuse_pair) == 96, "the ABI");
static_assert(sizeof(y5_cuda_prune_layer) == 40 && sizeof(y5_cuda_scale_img) == 88, "the ABI");

} // namespace y5

extern "C" __attribute__((visibility("default"))) const y5_cuda_api *
y5_cuda_api_get(void)
{
    static const y5_cuda_api api = {
        Y5_CUDA_ABI_VERSION,
        sizeof(y5_cuda_api),
        CUDART_VERSION,
        0,
        y5::architectures,
        y5::check_device,
        y5::ema_update,
        y5::sparsity_count,
        y5::fuse,
        y5::prune_workspace_bytes,
        y5::prune,
        y5::scale_img,
        y5::sparsity_sum,
    };
    return &api;
}
