/* Runs the blocks of a kernel: each thread a fiber, which goes on to the next barrier or fence, or
 * the next atomic on what blocks exchange. Knows neither kernels nor the driver. What it cannot
 * show: races between warps that a barrier would not order here either, alignment faults,
 * occupancy, speed. */
#include "blocks.h"

#include "exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define ADDRESS_SANITIZER 1
#else
#define ADDRESS_SANITIZER 0
#endif

#ifdef Y5_EMU_SIDE_BY_SIDE
#include <link.h>
#define SIDE_BY_SIDE 1
#else
#define SIDE_BY_SIDE 0
#endif

dim3 threadIdx;
dim3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace y5_emulator {

Y5_EMU_OF_BLOCK unsigned long long lane_values[32][32];

/* What a fiber waits for. */
enum wait { nothing, block_barrier, warp_barrier, finished };

/* Instrumented code takes more than plain code does. Mapped, with nothing else near. */
constexpr size_t stack_bytes = 256 * 1024;
constexpr char rubbish = (char)0xa5; /* what __shared__ memory holds at first */

/* One in so many of the blocks that tell others something has a rest then, of so many turns at
 * most: enough for another block to overtake it. */
constexpr unsigned int rests_one_in = 4;
constexpr unsigned int longest_rest = 64;

struct fiber {
    ucontext_t context;
    char *stack = NULL;
    wait waiting = nothing;
    void *fake_stack = NULL; /* AddressSanitizer's */
};

/* A block that has begun. */
struct block {
    unsigned int number = 0;
    std::vector<fiber> fibers;
    std::vector<char> shared; /* its memory, while another block has the place */
    unsigned int resting = 0; /* turns that others have before it */
};

/* What run_blocks() was asked for. */
struct launch {
    const char *name;
    const std::function<void()> *thread;
    unsigned int threads;
    y5_emulated_machine *machine;
    std::vector<unsigned int> sequence; /* of a block's threads */
};

static const launch *launched;
static exchange exchanged;
static block *present; /* whose __shared__ memory is in place */
static bool told;      /* it has told the others something in this turn */
static ucontext_t scheduler;
static fiber *running;

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
    (*launched->thread)();
    running->waiting = finished;
    switch_to_scheduler(true);
}

static void
wait_for(wait what)
{
    running->waiting = what;
    switch_to_scheduler(false);
}

void
wait_for_block()
{
    wait_for(block_barrier);
}

void
wait_for_warp()
{
    wait_for(warp_barrier);
}

void
pass_fence()
{
    if (exchanged.is_on()) {
        exchanged.fence(threadIdx.x);
        told = true;
        wait_for(nothing); /* others may run first */
    }
}

void
begin_atomic(const void *address, size_t bytes)
{
    if (exchanged.holds(address)) {
        exchanged.begin_atomic(address, bytes, threadIdx.x);
    }
}

void
end_atomic(const void *address, size_t bytes)
{
    if (exchanged.holds(address)) {
        exchanged.end_atomic(address, bytes);
        told = true;
        wait_for(nothing);
    }
}

/* One of 0 ... count - 1. */
static unsigned int
draw(unsigned int count, uint32_t *seed)
{
    *seed = *seed * 1664525U + 1013904223U;
    return (unsigned int)((uint64_t)*seed * count >> 32);
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
        std::swap(result[i - 1], result[draw(i, seed)]);
    }
    return result;
}

[[noreturn]] static void
stop(const char *problem)
{
    fprintf(stderr, "emulator: %s: %s\n", launched->name, problem);
    abort();
}

/* How many of some threads wait so. */
static unsigned int
count_waiting(const std::vector<fiber> &fibers, unsigned int first, unsigned int count, wait how)
{
    unsigned int found = 0;
    for (unsigned int i = first; i < first + count; i++) {
        found += fibers[i].waiting == how;
    }
    return found;
}

static void
release(std::vector<fiber> *fibers, unsigned int first, unsigned int count)
{
    for (unsigned int i = first; i < first + count; i++) {
        (*fibers)[i].waiting = nothing;
    }
}

/* Lets everyone go on who waits for a barrier that all have reached. True where nobody is left. */
static bool
open_barriers(std::vector<fiber> *fibers, unsigned int threads)
{
    if (count_waiting(*fibers, 0, threads, finished) == threads) {
        return true;
    }
    if (count_waiting(*fibers, 0, threads, block_barrier) == threads) {
        exchanged.meet();
        release(fibers, 0, threads);
        return false;
    }
    bool going_on = false;
    for (unsigned int first = 0; first < threads; first += 32) {
        unsigned int at_warp = count_waiting(*fibers, first, 32, warp_barrier);
        if (count_waiting(*fibers, first, 32, nothing) > 0) {
            going_on = true;
        } else if (at_warp == 32) {
            release(fibers, first, 32);
            going_on = true;
        } else if (at_warp > 0) {
            stop("lanes of a warp wait for each other, but not all of them");
        }
    }
    if (!going_on) {
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
    if (made->stack == NULL) {
        made->stack = map_stack();
    }
    made->waiting = nothing;
    getcontext(&made->context);
    made->context.uc_stack.ss_sp = made->stack;
    made->context.uc_stack.ss_size = stack_bytes;
    made->context.uc_link = NULL;
    makecontext(&made->context, run_fiber, 0);
}

/* The memory in which all that is __shared__ lies, where blocks have one each. */
struct range {
    char *data;
    size_t bytes;
};

#if SIDE_BY_SIDE
static thread_local char in_shared_memory;

/* That of this program's thread_local variables. */
static int
find_shared_memory(struct dl_phdr_info *module, size_t, void *found)
{
    char *data = (char *)module->dlpi_tls_data;
    for (int i = 0; i < module->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &module->dlpi_phdr[i];
        if (part->p_type == PT_TLS && data <= &in_shared_memory &&
            &in_shared_memory < data + part->p_memsz) {
            *(range *)found = {data, part->p_memsz};
            return 1;
        }
    }
    return 0;
}

static range
shared_memory()
{
    range found = {NULL, 0};
    if (dl_iterate_phdr(find_shared_memory, &found) == 0) {
        stop("where shared memory lies is not told");
    }
    return found;
}
#else
static range
shared_memory()
{
    return {NULL, 0};
}
#endif

/* Starts a block in a place whose last block has ended. */
static void
begin(block *place, unsigned int number, range shared)
{
    place->number = number;
    place->resting = 0;
    place->fibers.resize(std::max((size_t)launched->threads, place->fibers.size()));
    for (unsigned int i = 0; i < launched->threads; i++) {
        prepare(&place->fibers[i]);
    }
    place->shared.assign(shared.bytes, rubbish);
    present = present == place ? NULL : present;
}

/* Has the block's threads run. */
static void
enter(block *next, range shared)
{
    if (next != present) {
        if (present != NULL) {
            std::copy(shared.data, shared.data + shared.bytes, present->shared.data());
        }
        std::copy(next->shared.begin(), next->shared.end(), shared.data);
        exchanged.enter(next->number);
    }
    present = next;
    blockIdx = dim3(next->number % gridDim.x, next->number / gridDim.x % gridDim.y,
                    next->number / gridDim.x / gridDim.y);
}

static void
let_others_write()
{
    if (launched->machine->meanwhile != NULL) {
        launched->machine->meanwhile(launched->machine->context);
    }
}

/* A turn: each thread that need not wait goes on until it must. True where the block has ended. */
static bool
run_turn(block *at)
{
    told = false;
    for (unsigned int i : launched->sequence) {
        if (at->fibers[i].waiting == nothing) {
            threadIdx = dim3(i);
            switch_to_fiber(&at->fibers[i]);
            exchanged.note(i);
        }
    }
    let_others_write();
    return open_barriers(&at->fibers, launched->threads);
}

/* Whose turn it is. */
static size_t
choose(const std::vector<block *> &begun, uint32_t *seed)
{
    std::vector<size_t> awake;
    for (size_t i = 0; i < begun.size(); i++) {
        if (begun[i]->resting == 0) {
            awake.push_back(i);
        } else {
            begun[i]->resting--;
        }
    }
    if (awake.empty()) {
        return 0;
    }
    return awake.size() > 1 ? awake[draw((unsigned int)awake.size(), seed)] : awake[0];
}

void
run_blocks(const char *name, dim3 grid, unsigned int threads, const std::function<void()> &thread,
           y5_emulated_machine *machine)
{
    static std::vector<block> places;
    uint32_t seed = machine->seed;
    const launch what = {name, &thread, threads, machine, turns(threads, machine->threads, &seed)};
    unsigned int blocks = grid.x * grid.y * grid.z;
    std::vector<unsigned int> order = turns(blocks, machine->blocks, &seed);
    size_t together = SIDE_BY_SIDE ? (size_t)machine->together : 1;
    places.resize(std::max(together, places.size()));
    std::vector<block *> idle;
    for (size_t i = 0; i < together; i++) {
        idle.push_back(&places[i]);
    }
    launched = &what;
    blockDim = dim3(threads);
    gridDim = grid;
    present = NULL;
    let_others_write();
    exchanged.begin(SIDE_BY_SIDE ? machine->exchanged : NULL, machine->exchanged_bytes, blocks,
                    threads);
    const range shared = shared_memory();
    std::vector<block *> begun;
    for (size_t next = 0; next < blocks || !begun.empty();) {
        for (; next < blocks && !idle.empty(); idle.pop_back()) {
            begin(idle.back(), order[next++], shared);
            begun.push_back(idle.back());
        }
        size_t chosen = choose(begun, &seed);
        block *at = begun[chosen];
        enter(at, shared);
        if (run_turn(at)) {
            machine->blocks_run++;
            idle.push_back(at);
            begun.erase(begun.begin() + (long)chosen);
        }
        at->resting = told && draw(rests_one_in, &seed) == 0 ? draw(longest_rest, &seed) : 0;
    }
    exchanged.end();
}

} // namespace y5_emulator
