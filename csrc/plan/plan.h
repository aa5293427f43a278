/* What a call does with its tensors, once they were looked at: the only code that runs between a
 * tensor's address being taken and its last use. Plain C: nothing here can run Python code, which
 * would be free to replace the memory. Knows the core and the CUDA library's table, not torch. */
#ifndef Y5_PLAN_H
#define Y5_PLAN_H

#include "core/ops.h"
#include "core/overlap.h"
#include "y5_cuda.h"

/* The CUDA library and where it is to launch. */
typedef struct {
    const y5_cuda_api *api;
    y5_cuda_where where;
} y5_gpu;

/* What a call asks of the machine. */
typedef struct {
    int64_t bytes;       /* it moves so many */
    int64_t torch_bytes; /* torch's own operations would: it gives work to its pool from some number
                            on. 0: whatever torch's threads do is of no concern */
    bool follows_torch;  /* can be shared out as torch does, where torch's threads flush or round
                            otherwise than the calling one */
} y5_demand;

/* torch_bytes of operations that torch deals out however small they are. */
#define Y5_HOWEVER_SMALL INT64_MAX

/* The steps of one operation, in the order in which python/call.c takes them. `data` is the
 * operation's own. A step that fails has changed no tensor. */
typedef struct {
    void *data;
    uint32_t groups; /* which of the call's tensors are looked at: y5_held.group is one bit */
    /* Forgets what earlier looks have left. NULL: there is nothing. */
    void (*start)(void *data);
    /* One tensor after another. `tensor` and the one before it stay as they are until the next one
     * but one. Y5_SKIP: neither this tensor nor the next is wanted. */
    y5_status (*take)(void *data, int64_t index, const y5_tensor *tensor, y5_error *error);
    /* All were taken: may it run, and what does it ask for? May be NULL. */
    y5_status (*check)(void *data, y5_overlap overlap, y5_demand *demand, y5_error *error);
    /* Does it, on the CPU (with `as_torch` shared out as torch does) or on a GPU. Both NULL: the
     * call only checks. */
    y5_status (*run)(void *data, const y5_run *run, bool as_torch, y5_error *error);
    y5_status (*launch)(void *data, const y5_gpu *gpu, y5_error *error);
} y5_plan;

/* The sentences of refusal, each once. NULL where the tensor is as it must be. */
const char *y5_not_floating(const y5_tensor *tensor);
const char *y5_not_aligned(const y5_tensor *tensor);

/* Whether a tensor is memory for a GPU to work in: dense, of that type, aligned for any number. */
bool y5_is_workspace(const y5_tensor *tensor, y5_dtype dtype);

/* Y5_OK for no reason, else Y5_UNSUPPORTED with it. */
y5_status y5_refuse(y5_error *error, const char *reason);

/* What became of a call into the CUDA library: Y5_UNSUPPORTED for all that only the library minds,
 * of which torch's own operations know nothing, and Y5_DEVICE_FAILED where they cannot take over.
 */
y5_status y5_cuda_status_of(y5_cuda_status status, const y5_cuda_error *told, y5_error *error);

#endif
