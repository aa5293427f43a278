/* The emulated machine: a driver with one kind of device, and the kernels. Device memory is host
 * memory; a context and a stream are numbers. How blocks run is blocks.cpp's. */
#include "emulator.h"

#include "blocks.h"
#include "kernels.cu"

#include <stdlib.h>
#include <string.h>

#include <set>
#include <utility>
#include <vector>

namespace y5_emulator {

enum {
    out_of_memory = 2,
    relaxed = 2, /* a mode */
    invalid_device = 101,
    invalid_image = 200,
    not_found = 500,
    stream_capture_unsupported = 900,
};

/* A kernel that can be looked up, and its call with the arguments that a launch points to. */
struct kernel {
    const char *name;
    void (*run)(void **arguments);
};

template <auto Kernel> struct unpacked;
template <typename... Arguments, void (*Kernel)(Arguments...)> struct unpacked<Kernel> {
    template <size_t... Index> static void call(void **arguments, std::index_sequence<Index...>)
    {
        Kernel(*(const Arguments *)arguments[Index]...);
    }
    static void run(void **arguments)
    {
        call(arguments, std::index_sequence_for<Arguments...>());
    }
};

static const kernel kernels[] = {
#define X(name) {"y5_" #name, unpacked<y5_##name>::run},
    Y5_KERNELS(X)
#undef X
};

/* Its state where no test has changed it. */
static y5_emulated_machine
usual_machine()
{
    y5_emulated_machine machine = {};
    machine.driver_version = 12010;
    machine.devices = 1;
    machine.multiprocessors = 4;
    machine.compute_capability = 90;
    machine.seed = 1;
    machine.failing = "";
    machine.blocks_per_multiprocessor = 4;
    machine.together = 1;
    machine.last_device = -1;
    return machine;
}

static y5_emulated_machine the_machine = usual_machine();
static int capture_mode;
static std::vector<int32_t> devices_before; /* of the contexts that are pushed */
static std::set<std::pair<int32_t, const kernel *>> loaded_kernels; /* by device */
static std::set<const kernel *> run_kernels;

/* Success, or the failure that a test asked this call for. */
static int
outcome(const char *call)
{
    y5_emulated_machine &on = the_machine;
    return strcmp(on.failing, call) == 0 && on.spared-- <= 0 ? on.failure : 0;
}

/* Whether code may be loaded now. */
static int
loading()
{
    return the_machine.capturing != 0 && capture_mode != relaxed ? stream_capture_unsupported : 0;
}

/* Runs a kernel on the arguments that a launch points to. */
static void
run_kernel(const kernel *launched, dim3 grid, unsigned int threads, void **arguments)
{
    run_kernels.insert(launched);
    the_machine.kernels_run = (int64_t)run_kernels.size();
    run_blocks(
        launched->name, grid, threads, [&]() { launched->run(arguments); }, &the_machine);
}

} // namespace y5_emulator

using namespace y5_emulator;

y5_emulated_machine *
y5_emulated(void)
{
    return &the_machine;
}

/* The driver: the functions that cuda/driver.h names, and those of tools/gpu_kernels.c. */
extern "C" {

extern const unsigned char y5_cuda_image[];
const unsigned char y5_cuda_image[] = "an image of all kernels";

int
cuInit(unsigned int)
{
    return outcome("cuInit");
}

int
cuDriverGetVersion(int *version)
{
    *version = the_machine.driver_version;
    return outcome("cuDriverGetVersion");
}

int
cuGetErrorName(int code, const char **name)
{
    *name = code == 998 ? NULL : "CUDA_ERROR_BY_NAME";
    return code == 998;
}

int
cuGetErrorString(int code, const char **text)
{
    *text = code == 998 ? NULL : "what the driver says";
    return code == 998;
}

int
cuDeviceGetCount(int *count)
{
    *count = the_machine.devices;
    return outcome("cuDeviceGetCount");
}

int
cuDeviceGet(int *device, int number)
{
    *device = number;
    return number < the_machine.devices ? outcome("cuDeviceGet") : invalid_device;
}

int
cuDeviceGetAttribute(int *value, int attribute, int)
{
    *value = attribute == 16   ? the_machine.multiprocessors
             : attribute == 75 ? the_machine.compute_capability / 10
                               : the_machine.compute_capability % 10;
    return outcome("cuDeviceGetAttribute");
}

int
cuDevicePrimaryCtxRetain(void **context, int device)
{
    *context = (void *)(intptr_t)(device + 1);
    return outcome("cuDevicePrimaryCtxRetain");
}

int
cuCtxPushCurrent_v2(void *context)
{
    int result = outcome("cuCtxPushCurrent_v2");
    if (result == 0) {
        devices_before.push_back(the_machine.current_device);
        the_machine.current_device = (int32_t)(intptr_t)context - 1;
    }
    return result;
}

int
cuCtxPopCurrent_v2(void **context)
{
    *context = (void *)(intptr_t)(the_machine.current_device + 1);
    the_machine.current_device = devices_before.back();
    devices_before.pop_back();
    return 0;
}

int
cuThreadExchangeStreamCaptureMode(int *mode)
{
    int result = outcome("cuThreadExchangeStreamCaptureMode");
    if (result == 0) {
        std::swap(*mode, capture_mode);
    }
    return result;
}

int
cuModuleLoadData(void **module, const void *image)
{
    static const unsigned char fatbin[] = {0x50, 0xed, 0x55, 0xba};
    int result = outcome("cuModuleLoadData");
    if (result != 0 || (result = loading()) != 0) {
        return result;
    }
    if (image != y5_cuda_image && memcmp(image, fatbin, sizeof(fatbin)) != 0) {
        return invalid_image;
    }
    the_machine.modules++;
    *module = &the_machine;
    return 0;
}

int
cuModuleUnload(void *module)
{
    the_machine.modules -= module == &the_machine;
    return 0;
}

int
cuModuleGetFunction(void **function, void *, const char *name)
{
    int result = outcome("cuModuleGetFunction");
    for (const kernel &each : kernels) {
        if (result == 0 && strcmp(each.name, name) == 0) {
            *function = (void *)&each;
            return 0;
        }
    }
    return result != 0 ? result : not_found;
}

int
cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int, size_t)
{
    int result = outcome("cuOccupancyMaxActiveBlocksPerMultiprocessor");
    *blocks = the_machine.blocks_per_multiprocessor;
    if (result == 0 && (result = loading()) == 0) {
        loaded_kernels.emplace(the_machine.current_device, (const kernel *)function);
        the_machine.loaded++;
    }
    return result;
}

int
cuCtxSetCurrent(void *context)
{
    the_machine.current_device = (int32_t)(intptr_t)context - 1;
    return 0;
}

int
cuMemAlloc_v2(uintptr_t *data, size_t bytes)
{
    *data = (uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
    return *data != 0 ? 0 : out_of_memory;
}

int
cuMemcpyHtoD_v2(uintptr_t to, const void *from, size_t bytes)
{
    memcpy((void *)to, from, bytes);
    return 0;
}

int
cuMemcpyDtoH_v2(void *to, uintptr_t from, size_t bytes)
{
    memcpy(to, (const void *)from, bytes);
    return 0;
}

int
cuCtxSynchronize(void)
{
    return outcome("cuCtxSynchronize");
}

int
cuMemsetD8Async(uintptr_t data, unsigned char value, size_t bytes, void *)
{
    the_machine.clears++;
    int result = outcome("cuMemsetD8Async");
    if (result == 0) {
        memset((void *)data, value, bytes);
    }
    return result;
}

int
cuLaunchKernel(void *function, unsigned int x, unsigned int y, unsigned int z, unsigned int threads,
               unsigned int, unsigned int, unsigned int, void *stream, void **arguments, void **)
{
    y5_emulated_machine &on = the_machine;
    const kernel *launched = (const kernel *)function;
    on.launches++;
    on.last_stream = stream;
    on.last_device = on.current_device;
    int result = outcome("cuLaunchKernel");
    if (result == 0 && loaded_kernels.count({on.current_device, launched}) == 0) {
        result = loading();
        on.late_loaded++;
    }
    if (result == 0) {
        run_kernel(launched, dim3(x, y, z), threads, arguments);
    }
    return result;
}

} // extern "C"
