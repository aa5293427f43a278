/* The CUDA runtime as the launchers see it: devices, and its errors as sentences. Knows no
 * operation. */
#include "launch.cuh"
#include "operations.h"

#include <stdarg.h>
#include <stdio.h>

#ifndef Y5_CUDA_ARCHITECTURES
#error "Y5_CUDA_ARCHITECTURES names what this is built for, e.g. \"sm_90 compute_120\""
#endif

namespace y5 {

const char *const architectures = Y5_CUDA_ARCHITECTURES;

y5_cuda_status
fail(y5_cuda_error *error, y5_cuda_status status, const char *format, ...)
{
    error->code = 0;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof(error->message), format, arguments);
    va_end(arguments);
    return status;
}

static y5_cuda_status
fail_with_code(cudaError_t code, y5_cuda_error *error, y5_cuda_status status)
{
    error->code = (int32_t)code;
    return status;
}

/* No driver, no device, or a driver that this build's toolkit is too new for. */
static y5_cuda_status
fail_without_driver(cudaError_t code, y5_cuda_error *error)
{
    int driver = 0;
    cudaDriverGetVersion(&driver); /* 0 where there is none */
    const char *reason = cudaGetErrorString(code);
    if (code != cudaErrorInsufficientDriver) {
        return fail(error, Y5_CUDA_NO_DRIVER, "no CUDA device can be used: %s (cudaError %d)",
                    reason, (int)code);
    }
    int major = CUDART_VERSION / 1000;
    int minor = CUDART_VERSION % 1000 / 10;
    if (driver == 0) {
        return fail(error, Y5_CUDA_NO_DRIVER,
                    "no NVIDIA driver is installed (cudaError %d); the CUDA library was built with "
                    "CUDA %d.%d and needs a driver for it",
                    (int)code, major, minor);
    }
    return fail(error, Y5_CUDA_NO_DRIVER,
                "the NVIDIA driver is for CUDA %d.%d and older than the CUDA library, which was "
                "built with CUDA %d.%d (cudaError %d): update the driver, or build with an older "
                "toolkit",
                driver / 1000, driver % 1000 / 10, major, minor, (int)code);
}

static y5_cuda_status
fail_without_kernel(cudaError_t code, int32_t device, y5_cuda_error *error)
{
    int major = 0;
    int minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    return fail(error, Y5_CUDA_NO_KERNEL,
                "no kernel image for device %d, an sm_%d%d chip: the CUDA library was built for %s "
                "(cudaError %d); build it again with TORCH_CUDA_ARCH_LIST=%d.%d",
                (int)device, major, minor, architectures, (int)code, major, minor);
}

/* A status and a sentence for what the runtime reported. */
static y5_cuda_status
describe(cudaError_t code, const char *attempt, int32_t device, y5_cuda_error *error)
{
    switch (code) {
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorStubLibrary:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
        return fail_with_code(code, error, fail_without_driver(code, error));
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorInvalidKernelImage:
    case cudaErrorUnsupportedPtxVersion:
        return fail_with_code(code, error, fail_without_kernel(code, device, error));
    case cudaErrorMemoryAllocation:
        return fail_with_code(
            code, error,
            fail(error, Y5_CUDA_NO_MEMORY, "%s: device %d is out of memory", attempt, (int)device));
    case cudaErrorInvalidDevice:
        return fail_with_code(
            code, error,
            fail(error, Y5_CUDA_BAD_ARGUMENT, "%s: there is no device %d", attempt, (int)device));
    case cudaErrorInvalidResourceHandle:
    case cudaErrorContextIsDestroyed:
        return fail_with_code(code, error,
                              fail(error, Y5_CUDA_FAILED,
                                   "%s: the stream is not one of device %d, or its context is gone "
                                   "(%s, cudaError %d)",
                                   attempt, (int)device, cudaGetErrorString(code), (int)code));
    default:
        return fail_with_code(code, error,
                              fail(error, Y5_CUDA_FAILED, "%s on device %d: %s (%s, cudaError %d)",
                                   attempt, (int)device, cudaGetErrorString(code),
                                   cudaGetErrorName(code), (int)code));
    }
}

y5_cuda_status
check(cudaError_t code, const char *attempt, int32_t device, y5_cuda_error *error)
{
    if (code == cudaSuccess) {
        return Y5_CUDA_OK;
    }
    y5_cuda_status status = describe(code, attempt, device, error);
    (void)cudaGetLastError(); /* told: the next launch must not find it and take it for its own */
    return status;
}

y5_cuda_status
device_guard::enter(const y5_cuda_where *where, y5_cuda_error *error)
{
    int current = -1;
    y5_cuda_status status =
        check(cudaGetDevice(&current), "asking for the device", where->device, error);
    if (status == Y5_CUDA_OK && current != where->device) {
        status = check(cudaSetDevice(where->device), "choosing the device", where->device, error);
        if (status == Y5_CUDA_OK) {
            previous_ = current;
        }
    }
    if (status == Y5_CUDA_OK) {
        status = check(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount,
                                              where->device),
                       "asking for the multiprocessors", where->device, error);
    }
    return status;
}

device_guard::~device_guard()
{
    /* It was current before, so it can be again; where not, nobody is left to be told. */
    if (previous_ >= 0 && cudaSetDevice(previous_) != cudaSuccess) {
        (void)cudaGetLastError();
    }
}

} // namespace y5
