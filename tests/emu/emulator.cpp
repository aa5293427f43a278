/* The emulated machine: a driver with one kind of device, and kernels run by fibers. Device memory
 * is host memory; a context and a stream are numbers. What it cannot show: races between warps that
 * a barrier would not order here either, alignment faults, occupancy, speed. */
#include "emulator.h"

#include "kernels.cu"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <functional>
#include <set>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define ADDRESS_SANITIZER 1
#else
#define ADDRESS_SANITIZER 0
#endif

dim3 threadIdx;
dim3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace y5_emulator {

enum {
    relaxed = 2,
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

static y5_emulated_machine the_machine = {
    12010, 1, 0, 4, 90, Y5_ASCENDING, Y5_ASCENDING, 1,    "",   0, 0, 0, 4, 0, 0,
    0,     0, 0, 0, 0,  NULL,         -1,           NULL, NULL,
};
static int capture_mode;
static std::vector<int32_t> devices_before; /* of the contexts that are pushed */
static std::set<std::pair<int32_t, const kernel *>> loaded_kernels; /* by device */
static std::set<const kernel *> run_kernels;
unsigned long long lane_values[32][32];

/* What a fiber waits for. */
enum wait { nothing, block_barrier, warp_barrier, finished };

/* Instrumented code takes more than plain code does. Mapped, with nothing else near. */
constexpr size_t stack_bytes = 256 * 1024;

struct fiber {
    ucontext_t context;
    char *stack;
    wait waiting = nothing;
    void *fake_stack = NULL; /* AddressSanitizer's */
};

static std::vector<fiber> fibers;
static ucontext_t scheduler;
static fiber *running;
static const std::function<void()> *running_body;
static const char *running_name;

#if ADDRESS_SANITIZER
static void *scheduler_fake_stack;
static const void *scheduler_stack;
static size_t scheduler_stack_bytes;
#endif

static void
switch_to_scheduler(bool for_good)
{
#if ADDRESS_SANITIZER
    __sanitizer_start_switch_fiber(for_good ? NULL : &running->fake_stack, scheduler_stack,
                                   scheduler_stack_bytes);
#else
    (void)for_good;
#endif
    fiber *self = running;
    swapcontext(&self->context, &scheduler);
#if ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(self->fake_stack, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

static void
switch_to_fiber(fiber *next)
{
    running = next;
#if ADDRESS_SANITIZER
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, next->stack, stack_bytes);
#endif
    swapcontext(&scheduler, &next->context);
#if ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, NULL, NULL);
#endif
}

static void
run_fiber()
{
#if ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(NULL, &scheduler_stack, &scheduler_stack_bytes);
#endif
    (*running_body)();
    running->waiting = finished;
    switch_to_scheduler(true);
}

void
wait_for_block()
{
    running->waiting = block_barrier;
    switch_to_scheduler(false);
}

void
wait_for_warp()
{
    running->waiting = warp_barrier;
    switch_to_scheduler(false);
}

/* A permutation of 0 ... count - 1. */
static std::vector<unsigned int>
turns(unsigned int count, y5_emulated_order how, uint32_t *seed)
{
    std::vector<unsigned int> result(count);
    for (unsigned int i = 0; i < count; i++) {
        result[i] = how == Y5_DESCENDING ? count - 1 - i : i;
    }
    for (unsigned int i = count; how == Y5_SHUFFLED && i > 1; i--) {
        *seed = *seed * 1664525U + 1013904223U;
        unsigned int other = (unsigned int)((uint64_t)*seed * i >> 32);
        unsigned int kept = result[i - 1];
        result[i - 1] = result[other];
        result[other] = kept;
    }
    return result;
}

[[noreturn]] static void
stop(const char *problem)
{
    fprintf(stderr, "emulator: %s: %s\n", running_name, problem);
    abort();
}

/* Lets everyone go on who waits for a barrier that all have reached. True where nobody is left. */
static bool
open_barriers(unsigned int threads)
{
    unsigned int at_block = 0;
    unsigned int done = 0;
    for (unsigned int i = 0; i < threads; i++) {
        at_block += fibers[i].waiting == block_barrier;
        done += fibers[i].waiting == finished;
    }
    if (done == threads) {
        return true;
    }
    if (at_block == threads) {
        for (unsigned int i = 0; i < threads; i++) {
            fibers[i].waiting = nothing;
        }
        return false;
    }
    bool opened = false;
    for (unsigned int first = 0; first < threads; first += 32) {
        unsigned int at_warp = 0;
        for (unsigned int i = first; i < first + 32; i++) {
            at_warp += fibers[i].waiting == warp_barrier;
        }
        if (at_warp > 0 && at_warp < 32) {
            stop("lanes of a warp wait for each other, but not all of them");
        }
        for (unsigned int i = first; i < first + 32 && at_warp == 32; i++) {
            fibers[i].waiting = nothing;
            opened = true;
        }
    }
    if (!opened) {
        stop("threads of a block wait at different barriers, or some have ended");
    }
    return false;
}

static char *
map_stack()
{
    void *memory = mmap(NULL, stack_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) {
        perror("emulator: stack of a thread");
        abort();
    }
    return (char *)memory;
}

static void
prepare(fiber *made)
{
    made->waiting = nothing;
    getcontext(&made->context);
    made->context.uc_stack.ss_sp = made->stack;
    made->context.uc_stack.ss_size = stack_bytes;
    made->context.uc_link = NULL;
    makecontext(&made->context, run_fiber, 0);
}

static void
let_others_write()
{
    if (the_machine.meanwhile != NULL) {
        the_machine.meanwhile(the_machine.context);
    }
}

static void
run_block(unsigned int threads, const std::vector<unsigned int> &sequence)
{
    for (unsigned int i = 0; i < threads; i++) {
        prepare(&fibers[i]);
    }
    do {
        for (unsigned int i : sequence) {
            if (fibers[i].waiting == nothing) {
                threadIdx = dim3(i);
                switch_to_fiber(&fibers[i]);
            }
        }
        let_others_write();
    } while (!open_barriers(threads));
}

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

/* Runs a kernel: block after block, the threads of a block as fibers that switch at barriers. Ends
 * the process where threads of a block wait at different barriers. */
static void
run_kernel(const kernel *launched, const unsigned int *grid, unsigned int threads, void **arguments)
{
    y5_emulated_machine &on = the_machine;
    run_kernels.insert(launched);
    on.kernels_run = (int64_t)run_kernels.size();
    while (fibers.size() < threads) {
        fibers.emplace_back();
        fibers.back().stack = map_stack();
    }
    let_others_write();
    const std::function<void()> body = [&]() { launched->run(arguments); };
    running_body = &body;
    running_name = launched->name;
    blockDim = dim3(threads);
    gridDim = dim3(grid[0], grid[1], grid[2]);
    uint32_t seed = on.seed;
    std::vector<unsigned int> sequence = turns(threads, on.threads, &seed);
    for (unsigned int number : turns(grid[0] * grid[1] * grid[2], on.blocks, &seed)) {
        blockIdx = dim3(number % grid[0], number / grid[0] % grid[1], number / grid[0] / grid[1]);
        run_block(threads, sequence);
        on.blocks_run++;
    }
}

} // namespace y5_emulator

using namespace y5_emulator;

y5_emulated_machine *
y5_emulated(void)
{
    return &the_machine;
}

/* The driver: the functions that cuda/driver.h names. */
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
    const unsigned int grid[] = {x, y, z};
    on.launches++;
    on.last_stream = stream;
    on.last_device = on.current_device;
    int result = outcome("cuLaunchKernel");
    if (result == 0 && loaded_kernels.count({on.current_device, launched}) == 0) {
        result = loading();
        on.late_loaded++;
    }
    if (result == 0) {
        run_kernel(launched, grid, threads, arguments);
    }
    return result;
}

} // extern "C"
