/* The emulated machine: a runtime with one kind of device, and kernels run by fibers. What it
 * cannot show: races between warps that a barrier would not order here either, alignment faults,
 * occupancy, speed. */
#include "emulator.h"

#include <cuda_runtime.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

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

static y5_emulated_machine the_machine = {
    13000, 1, 0, 4, 90, Y5_ASCENDING, Y5_ASCENDING, 1,    "",   0, 0, 0, 0,
    0,     0, 0, 0, 0,  NULL,         -1,           NULL, NULL,
};
static cudaError_t last_error = cudaSuccess;
static cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
static std::set<std::pair<int32_t, const void *>> loaded_kernels; /* by device */
static std::set<const void *> run_kernels;
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

/* Returns the result of a call, which stays behind as the last error where it is one. */
static cudaError_t
remember(cudaError_t result)
{
    last_error = result != cudaSuccess ? result : last_error;
    return result;
}

/* Success, or the failure that a test asked this call for. */
static cudaError_t
outcome(const char *call)
{
    y5_emulated_machine &on = the_machine;
    bool failing = strcmp(on.failing, call) == 0 && on.spared-- <= 0;
    return remember(failing ? (cudaError_t)on.failure : cudaSuccess);
}

/* Loads a kernel onto the current device, unless it is there; `late` where it is being launched. */
static cudaError_t
load(const void *kernel, bool late)
{
    y5_emulated_machine &on = the_machine;
    std::pair<int32_t, const void *> loading(on.current_device, kernel);
    if (loaded_kernels.count(loading) != 0) {
        return cudaSuccess;
    }
    if (on.capturing != 0 && capture_mode != cudaStreamCaptureModeRelaxed) {
        return remember(cudaErrorStreamCaptureUnsupported);
    }
    loaded_kernels.insert(loading);
    on.loaded++;
    on.late_loaded += late;
    return cudaSuccess;
}

void
launch(const void *kernel, const char *name, dim3 grid, dim3 block, const void *stream,
       const std::function<void()> &body)
{
    y5_emulated_machine &on = the_machine;
    on.launches++;
    on.last_stream = stream;
    on.last_device = on.current_device;
    if (outcome("launch") != cudaSuccess || load(kernel, true) != cudaSuccess) {
        return;
    }
    run_kernels.insert(kernel);
    on.kernels_run = (int64_t)run_kernels.size();
    unsigned int threads = block.x;
    while (fibers.size() < threads) {
        fibers.emplace_back();
        fibers.back().stack = map_stack();
    }
    let_others_write();
    running_body = &body;
    running_name = name;
    blockDim = block;
    gridDim = grid;
    uint32_t seed = on.seed;
    std::vector<unsigned int> sequence = turns(threads, on.threads, &seed);
    for (unsigned int number : turns(grid.x * grid.y * grid.z, on.blocks, &seed)) {
        blockIdx = dim3(number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y);
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

const char *
cudaGetErrorString(cudaError_t)
{
    return "what the runtime says";
}

const char *
cudaGetErrorName(cudaError_t)
{
    return "cudaErrorByName";
}

cudaError_t
cudaDriverGetVersion(int *version)
{
    *version = the_machine.driver_version;
    return outcome("cudaDriverGetVersion");
}

cudaError_t
cudaGetDeviceCount(int *count)
{
    *count = the_machine.devices;
    return outcome("cudaGetDeviceCount");
}

cudaError_t
cudaGetDevice(int *device)
{
    *device = the_machine.current_device;
    return outcome("cudaGetDevice");
}

cudaError_t
cudaSetDevice(int device)
{
    if (device < 0 || device >= the_machine.devices) {
        return remember(cudaErrorInvalidDevice);
    }
    cudaError_t result = outcome("cudaSetDevice");
    the_machine.current_device = result == cudaSuccess ? device : the_machine.current_device;
    return result;
}

cudaError_t
cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int)
{
    *value = attribute == cudaDevAttrMultiProcessorCount      ? the_machine.multiprocessors
             : attribute == cudaDevAttrComputeCapabilityMajor ? the_machine.compute_capability / 10
                                                              : the_machine.compute_capability % 10;
    return outcome("cudaDeviceGetAttribute");
}

cudaError_t
cudaGetLastError(void)
{
    cudaError_t result = last_error;
    last_error = cudaSuccess;
    return result;
}

cudaError_t
cudaMemsetAsync(void *data, int value, size_t bytes, cudaStream_t)
{
    the_machine.clears++;
    cudaError_t result = outcome("cudaMemsetAsync");
    if (result == cudaSuccess) {
        memset(data, value, bytes);
    }
    return result;
}

cudaError_t
cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *kernel)
{
    attributes->numRegs = 32;
    cudaError_t result = outcome("cudaFuncGetAttributes");
    return result == cudaSuccess ? load(kernel, false) : result;
}

cudaError_t
cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode)
{
    cudaError_t result = outcome("cudaThreadExchangeStreamCaptureMode");
    if (result == cudaSuccess) {
        std::swap(*mode, capture_mode);
    }
    return result;
}
