/* Finds torch's thread pool by symbol. Declarations of the two functions are our own; a test
 * compares them with torch/csrc/stable/c/shim.h. */
#include "python/torch_runtime.h"

#include "core/dl.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define MOST_THREADS 1024

/* Spreads numbers over 64 bits: 2^64 over the golden ratio. */
#define MIXER 0x9e3779b97f4a7c15U

#if defined(__APPLE__)
#define TORCH_LIBRARY "libtorch_cpu.dylib"
#else
#define TORCH_LIBRARY "libtorch_cpu.so"
#endif

void
y5_torch_find_pool(y5_torch *torch)
{
    torch->parallel_for = NULL;
    torch->get_num_threads = NULL;
    /* Python loads extension modules privately, so the default namespace does not have torch. */
    void *library = dlopen(TORCH_LIBRARY, RTLD_LAZY | RTLD_NOLOAD);
    if (library == NULL) {
        return;
    }
    void *parallel_for = dlsym(library, "torch_parallel_for");
    void *get_num_threads = dlsym(library, "torch_get_num_threads");
    if (parallel_for != NULL && get_num_threads != NULL) {
        memcpy(&torch->parallel_for, &parallel_for, sizeof(parallel_for));
        memcpy(&torch->get_num_threads, &get_num_threads, sizeof(get_num_threads));
    }
    dlclose(library); /* torch keeps it loaded */
}

static uintptr_t
this_thread(void)
{
    return (uintptr_t)pthread_self();
}

static bool
is_fork_child(const y5_state *state)
{
    return (long)getpid() != state->process;
}

/* Bytes that a call moves at least where torch's own operations use its pool: above 32,768
 * elements, or 8,192 of a resized image, of whatever type. */
#define DEALT_OUT_BYTES 32768

y5_pool
y5_torch_pool(const y5_state *state)
{
    y5_pool pool = {NULL, 1};
    uint32_t threads = 1;
    if (state->torch.parallel_for != NULL && !is_fork_child(state) &&
        state->torch.get_num_threads(&threads) == 0 && threads > 1) {
        pool.run = state->torch.parallel_for;
        pool.threads = threads < MOST_THREADS ? (int32_t)threads : MOST_THREADS;
    }
    return pool;
}

y5_run
y5_torch_run(const y5_state *state, int64_t bytes)
{
    y5_run run = {.level = atomic_load(&state->level), .pool = {NULL, 1}};
    if (bytes >= atomic_load(&state->parallel_bytes)) {
        run.pool = y5_torch_pool(state);
    }
    return run;
}

/* Who asks, and what the answer depends on, as one number. */
static uint64_t
question(const y5_state *state)
{
    uint32_t threads = 0;
    if (state->torch.get_num_threads(&threads) != 0) {
        return 0;
    }
    uint64_t who = (uint64_t)this_thread() * MIXER + threads;
    return (who * MIXER ^ y5_float_state_get()) * MIXER;
}

y5_status
y5_torch_check_pool(const y5_state *state, const y5_run *run, int64_t bytes, y5_error *error)
{
    if (state->torch.parallel_for == NULL || (bytes < DEALT_OUT_BYTES && run->pool.run == NULL)) {
        return Y5_OK;
    }
    uint64_t asked = question(state);
    _Atomic uint64_t *answered = &state->agreed[asked >> 60];
    if (run->pool.run == NULL && asked == atomic_load(answered)) {
        return Y5_OK;
    }
    y5_pool pool = y5_torch_pool(state);
    if (!y5_pool_agrees(&pool)) {
        return y5_fail(error, Y5_UNSUPPORTED, "",
                       "threads of torch's pool flush or round otherwise than this one");
    }
    atomic_store(answered, asked);
    return Y5_OK;
}
