/* C functions found in the torch that is already loaded. Nothing is linked, nothing is loaded. */
#ifndef Y5_TORCH_RUNTIME_H
#define Y5_TORCH_RUNTIME_H

#include "core/ops.h"
#include "python/state.h"

/* Looks up torch_parallel_for and torch_get_num_threads (torch 2.10 and later). Both stay NULL
 * where they are missing: every call then runs on the calling thread. */
void y5_torch_find_pool(y5_torch *torch);

/* How a call that moves `bytes` of memory is to run: on torch's pool with torch's thread count
 * above the threshold, unless this is a fork child, in which that pool would hang. */
y5_run y5_torch_run(const y5_state *state, int64_t bytes);

#endif
