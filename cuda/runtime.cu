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

y5_cuda_status
check_elements(const char *list, int64_t index, const void *data, int64_t numel, size_t alignment,
               y5_cuda_error *error)
{
    if (numel < 0 || numel > numel_limit) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "%s[%lld]: %lld elements", list, (long long)index,
                    (long long)numel);
    }
    if (numel > 0 && data == NULL) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "%s[%lld]: a null pointer", list,
                    (long long)index);
    }
    if (!is_aligned(data, alignment)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "%s[%lld]: not aligned to its elements", list,
                    (long long)index);
    }
    return Y5_CUDA_OK;
}

/* What an error of the runtime means, by cudaError_t's numbers, since older toolkits lack some
 * names. torch has a runtime and kernels of its own, which often mind nothing of what fails here;
 * where they do, torch raises. */
static y5_cuda_status
verdict_on(cudaError_t code)
{
    switch ((int)code) {
    case 34:  /* the driver is a stub */
    case 35:  /* older than the runtime */
    case 36:  /* older than a call needs */
    case 100: /* no device */
    case 803: /* not of its own libraries' release */
    case 804: /* of a release that the chip is not for */
        return Y5_CUDA_NO_DRIVER;
    case 98:  /* no such function */
    case 200: /* a bad image */
    case 209: /* no image for the chip */
    case 218: /* bad PTX */
    case 221: /* no compiler for PTX */
    case 222: /* PTX that is too new */
    case 223: /* compiling is switched off */
    case 224: /* a share of the device that it cannot give */
    case 225: /* PTX that synchronises */
    case 300: /* bad source */
    case 801: /* not supported */
        return Y5_CUDA_NO_KERNEL;
    case 101: /* no such device */
        return Y5_CUDA_BAD_ARGUMENT;
    case 214:                  /* memory */
    case 220:                  /* NVLink */
    case 226:                  /* a contained error */
    case 700:                  /* an illegal address */
    case 702:                  /* a kernel that ran too long */
    case 710:                  /* an assertion */
    case 714:                  /* the call stack */
    case 715:                  /* an illegal instruction */
    case 716:                  /* a misaligned address */
    case 717:                  /* an address space */
    case 718:                  /* the program counter */
    case 719:                  /* any other fault of a kernel */
    case 721:                  /* tensor memory */
    case 810:                  /* the server of the device has ended this process' work */
    case 911:                  /* another device */
        return Y5_CUDA_FAILED; /* the process can use no device any more */
    default:
        return Y5_CUDA_NOT_NOW;
    }
}

/* No driver, no device, or a driver that is too old. */
static y5_cuda_status
fail_without_driver(cudaError_t code, y5_cuda_error *error)
{
    int driver = 0;
    if (code != cudaErrorInsufficientDriver) {
        return fail(error, Y5_CUDA_NO_DRIVER, "no CUDA device can be used: %s (%s, cudaError %d)",
                    cudaGetErrorString(code), cudaGetErrorName(code), (int)code);
    }
    constexpr int needed = oldest_driver(CUDART_VERSION);
    const int major = needed / 1000;
    const int minor = needed % 1000 / 10;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
        return fail(error, Y5_CUDA_NO_DRIVER,
                    "no NVIDIA driver is installed (cudaError %d); the CUDA library needs one for "
                    "CUDA %d.%d or newer",
                    (int)code, major, minor);
    }
    return fail(error, Y5_CUDA_NO_DRIVER,
                "the NVIDIA driver is for CUDA %d.%d and the CUDA library, built with CUDA %d.%d, "
                "needs one for %d.%d or newer (cudaError %d): update the driver, or build with an "
                "older toolkit",
                driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                CUDART_VERSION % 1000 / 10, major, minor, (int)code);
}

static y5_cuda_status
fail_without_kernel(cudaError_t code, int32_t device, y5_cuda_error *error)
{
    int major = 0;
    int minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    return fail(error, Y5_CUDA_NO_KERNEL,
                "the CUDA library does not run on device %d, an sm_%d%d chip: %s (%s, cudaError "
                "%d); it was built for %s, and is for this chip with TORCH_CUDA_ARCH_LIST=%d.%d",
                (int)device, major, minor, cudaGetErrorString(code), cudaGetErrorName(code),
                (int)code, architectures, major, minor);
}

/* A status and a sentence for what the runtime reported. */
static y5_cuda_status
describe(cudaError_t code, const char *attempt, int32_t device, y5_cuda_error *error)
{
    y5_cuda_status status = verdict_on(code);
    switch (status) {
    case Y5_CUDA_NO_DRIVER:
        return fail_without_driver(code, error);
    case Y5_CUDA_NO_KERNEL:
        return fail_without_kernel(code, device, error);
    case Y5_CUDA_BAD_ARGUMENT:
        return fail(error, status, "%s: there is no device %d", attempt, (int)device);
    default:
        return fail(error, status, "%s on device %d: %s (%s, cudaError %d)", attempt, (int)device,
                    cudaGetErrorString(code), cudaGetErrorName(code), (int)code);
    }
}

y5_cuda_status
check(cudaError_t code, const char *attempt, int32_t device, y5_cuda_error *error)
{
    if (code == cudaSuccess) {
        return Y5_CUDA_OK;
    }
    y5_cuda_status status = describe(code, attempt, device, error);
    error->code = (int32_t)code;
    (void)cudaGetLastError(); /* told: the next launch must not find it and take it for its own */
    return status;
}

const launched_kernel *launched_kernel::first = NULL;

y5_cuda_status
launched_kernel::load_all(int32_t device, y5_cuda_error *error)
{
    y5_cuda_status status = Y5_CUDA_OK;
    for (const launched_kernel *each = first; each != NULL && status == Y5_CUDA_OK;
         each = each->next_) {
        cudaFuncAttributes attributes;
        status = check(cudaFuncGetAttributes(&attributes, each->kernel_), "loading the kernels",
                       device, error);
    }
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
