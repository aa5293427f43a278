/* The exported table, and the question whether this build runs on a device. */
#include "launch.cuh"
#include "operations.h"

namespace y5 {

/* As long as it lives, this thread may do what CUDA takes for a mistake while a graph is captured
 * here or in another thread, and would end the capture for: to load code. */
class capture_guard {
  public:
    ~capture_guard()
    {
        if (entered_ && cudaThreadExchangeStreamCaptureMode(&mode_) != cudaSuccess) {
            (void)cudaGetLastError(); /* nobody is left to be told */
        }
    }

    y5_cuda_status enter(int32_t device, y5_cuda_error *error)
    {
        y5_cuda_status status = check(cudaThreadExchangeStreamCaptureMode(&mode_),
                                      "allowing to load code", device, error);
        entered_ = status == Y5_CUDA_OK;
        return status;
    }

  private:
    cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed; /* later the one before */
    bool entered_ = false;
};

/* A driver that is too old for this build, which the runtime itself may not notice. */
static y5_cuda_status
check_driver(int32_t device, y5_cuda_error *error)
{
    int driver = 0; /* stays 0 where there is none */
    y5_cuda_status status =
        check(cudaDriverGetVersion(&driver), "asking for the driver", device, error);
    return status == Y5_CUDA_OK && driver < oldest_driver(CUDART_VERSION)
               ? check(cudaErrorInsufficientDriver, "asking for the driver", device, error)
               : status;
}

y5_cuda_status
check_device(int32_t device, y5_cuda_error *error)
{
    y5_cuda_where where = {NULL, device, 0};
    int count = 0;
    y5_cuda_status status = check_driver(device, error);
    if (status == Y5_CUDA_OK) {
        status = check(cudaGetDeviceCount(&count), "counting devices", device, error);
    }
    if (status == Y5_CUDA_OK && (device < 0 || device >= count)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "there is no device %d, only %d in all",
                    (int)device, count);
    }
    capture_guard capture;
    device_guard guard;
    if (status == Y5_CUDA_OK) {
        status = capture.enter(device, error);
    }
    if (status == Y5_CUDA_OK) {
        status = guard.enter(&where, error);
    }
    return status == Y5_CUDA_OK ? launched_kernel::load_all(device, error) : status;
}

static_assert(sizeof(y5_cuda_where) == 16 && sizeof(y5_ema_pair) == 32, "the ABI");
static_assert(sizeof(y5_elements) == 24 && sizeof(y5_fuse_pair) == 96, "the ABI");
static_assert(sizeof(y5_prune_layer) == 40 && sizeof(y5_scale_img) == 96, "the ABI");

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
