/* Finds torch's thread pool by symbol. Declarations of the two functions are our own; a test
 * compares them with torch/csrc/stable/c/shim.h. */
#include "python/torch_runtime.h"

#include <string.h>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#include <unistd.h>
#define Y5_POSIX 1
#else
#define Y5_POSIX 0
#endif

#if Y5_POSIX
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

static bool
is_fork_child(const y5_state *state)
{
    return (long)getpid() != state->process;
}
#else
void
y5_torch_find_pool(y5_torch *torch)
{
    torch->parallel_for = NULL;
    torch->get_num_threads = NULL;
}

static bool
is_fork_child(const y5_state *state)
{
    (void)state;
    return false;
}
#endif

y5_run
y5_torch_run(const y5_state *state, int64_t bytes)
{
    y5_run run = {.level = atomic_load(&state->level), .pool = {NULL, 1}};
    uint32_t threads = 1;
    if (state->torch.parallel_for != NULL && bytes >= atomic_load(&state->parallel_bytes) &&
        !is_fork_child(state) && state->torch.get_num_threads(&threads) == 0 && threads > 1) {
        run.pool.run = state->torch.parallel_for;
        run.pool.threads = threads < 1024 ? (int32_t)threads : 1024;
    }
    return run;
}
