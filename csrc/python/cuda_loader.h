/* The CUDA library: opened at the first CUDA tensor, judged once, then a table of functions. Knows
 * its C ABI; knows neither CUDA nor torch. */
#ifndef Y5_CUDA_LOADER_H
#define Y5_CUDA_LOADER_H

#include "plan/plan.h"
#include "python/state.h"

/* Sets state->cuda up, without a library. False without memory. */
bool y5_cuda_start(y5_state *state);

/* The library's path, NULL for none. It is opened when first needed; a library that was open before
 * stays loaded, since nobody knows who still runs in it. False without memory. */
bool y5_cuda_set_path(y5_state *state, const char *path);

void y5_cuda_stop(y5_state *state);

/* Sets *api to the table, once the library is open and has agreed to run on the device. Otherwise
 * Y5_UNSUPPORTED, with a sentence that stays the same until another path is set where the refusal
 * is for good; or Y5_DEVICE_FAILED. Of any other refusal, and of a failure, the library is asked
 * again by the next call. Releases the GIL while it asks: a device is started, and code may be
 * compiled for it. */
y5_status y5_cuda_find(const y5_state *state, int32_t device_index, const y5_cuda_api **api,
                       y5_error *error);

/* True where y5_cuda_find() has the answer already, and keeps the GIL. */
bool y5_cuda_is_known(const y5_state *state, int32_t device_index);

/* A new dict for info(): problem, or else architectures and toolkit. Opens the library; asks it for
 * the device unless that is negative. */
PyObject *y5_cuda_facts(const y5_state *state, int32_t device_index);

#endif
