/* CUDA libraries that compute nothing, wrong ones among them: each macro below makes one fault.
 * They write down how they were called. */
#define _POSIX_C_SOURCE 199309L /* nanosleep */

#include "y5_cuda.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

#ifndef FAKE_ABI_VERSION
#define FAKE_ABI_VERSION Y5_CUDA_ABI_VERSION
#endif
#ifndef FAKE_BYTES
#define FAKE_BYTES sizeof(y5_cuda_api)
#endif
#ifndef FAKE_SYMBOL
#define FAKE_SYMBOL y5_cuda_api_get
#endif
#ifndef FAKE_CHECK_STATUS
#define FAKE_CHECK_STATUS Y5_CUDA_OK
#endif
#ifndef FAKE_STATUS
#define FAKE_STATUS Y5_CUDA_OK
#endif
#ifndef FAKE_CALLS_GOOD /* so many calls succeed before one has FAKE_STATUS */
#define FAKE_CALLS_GOOD 0
#endif
#ifndef FAKE_PRUNE_BYTES
#define FAKE_PRUNE_BYTES 256 * count
#endif
#ifndef FAKE_CHECKS_FAILED /* so many calls of check_device fail, and the later ones succeed */
#define FAKE_CHECKS_FAILED INT64_MAX
#endif
#ifndef FAKE_CHECK_WAITS /* check_device fails unless the test says meanwhile that it may go on */
#define FAKE_CHECK_WAITS 0
#endif

/* What the last call was told, in the order the test reads it. */
typedef struct {
    int64_t checks; /* calls of check_device */
    int64_t calls;  /* of the operations */
    int64_t stream;
    int64_t device;
    int64_t count; /* of items */
    int64_t first; /* address of the first layer's weights */
    int64_t go_on; /* set by the test */
} fake_record;

static fake_record record;

EXPORT fake_record *fake_record_get(void);
EXPORT const y5_cuda_api *FAKE_SYMBOL(void);

fake_record *
fake_record_get(void)
{
    return &record;
}

static y5_cuda_status
tell(y5_cuda_status status, y5_cuda_error *error)
{
    error->code = status;
    snprintf(error->message, sizeof(error->message), "the fake library says %d", (int)status);
    return status;
}

static y5_cuda_status
note(const y5_cuda_where *where, int64_t count, y5_cuda_error *error)
{
    record.calls++;
    record.stream = (int64_t)(intptr_t)where->stream;
    record.device = where->device;
    record.count = count;
    return FAKE_STATUS == Y5_CUDA_OK || record.calls <= FAKE_CALLS_GOOD ? Y5_CUDA_OK
                                                                        : tell(FAKE_STATUS, error);
}

static y5_cuda_status
check_device(int32_t device, y5_cuda_error *error)
{
    (void)device;
    record.checks++;
    volatile const int64_t *go_on = &record.go_on;
    for (int i = 0; FAKE_CHECK_WAITS && *go_on == 0 && i < 500; i++) {
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
    if (FAKE_CHECK_WAITS && *go_on == 0) {
        return tell(Y5_CUDA_FAILED, error);
    }
    return FAKE_CHECK_STATUS == Y5_CUDA_OK || record.checks > FAKE_CHECKS_FAILED
               ? Y5_CUDA_OK
               : tell(FAKE_CHECK_STATUS, error);
}

static y5_cuda_status
ema_update(const y5_cuda_where *where, const y5_ema_pair *pairs, int64_t count, double decay,
           y5_cuda_error *error)
{
    (void)pairs;
    (void)decay;
    return note(where, count, error);
}

static y5_cuda_status
sparsity_count(const y5_cuda_where *where, const y5_elements *items, int64_t count, int64_t *zeros,
               int64_t zeros_count, y5_cuda_error *error)
{
    (void)items;
    memset(zeros, 0, (size_t)zeros_count * sizeof(*zeros));
    return note(where, count, error);
}

static y5_cuda_status
fuse(const y5_cuda_where *where, const y5_fuse_pair *pairs, int64_t count, int32_t *doubtful,
     y5_cuda_error *error)
{
    (void)pairs;
    if (doubtful != NULL) {
        memset(doubtful, 0, (size_t)count * sizeof(*doubtful));
    }
    return note(where, count, error);
}

static int64_t
prune_workspace_bytes(const y5_prune_layer *layers, int64_t count)
{
    (void)layers;
    return count > 0 ? FAKE_PRUNE_BYTES : 0;
}

static y5_cuda_status
prune(const y5_cuda_where *where, const y5_prune_layer *layers, int64_t count, void *workspace,
      int64_t workspace_bytes, y5_cuda_error *error)
{
    (void)workspace;
    (void)workspace_bytes;
    record.first = count > 0 ? (int64_t)(intptr_t)layers[0].weights : 0;
    return note(where, count, error);
}

static y5_cuda_status
scale_img(const y5_cuda_where *where, const y5_scale_img *job, y5_cuda_error *error)
{
    (void)job;
    return note(where, 1, error);
}

static y5_cuda_status
sparsity_sum(const y5_cuda_where *where, const int64_t *zeros, int64_t count, int32_t dtype,
             void *sum, y5_cuda_error *error)
{
    (void)zeros;
    memset(sum, 0, dtype == Y5_FLOAT64 ? 8 : 4);
    return note(where, count, error);
}

static const y5_cuda_api api = {
    .abi_version = FAKE_ABI_VERSION,
    .struct_bytes = (uint32_t)(FAKE_BYTES),
    .toolkit_version = 13000,
    .architectures = "sm_00",
    .check_device = check_device,
    .ema_update = ema_update,
    .sparsity_count = sparsity_count,
    .fuse = fuse,
    .prune_workspace_bytes = prune_workspace_bytes,
    .prune = prune,
    .scale_img = scale_img,
    .sparsity_sum = sparsity_sum,
};

const y5_cuda_api *
FAKE_SYMBOL(void)
{
#ifdef FAKE_NO_TABLE
    return (void)api, (const y5_cuda_api *)0;
#elif defined(FAKE_LACKS) /* a member of the table */
    static y5_cuda_api lacking;
    lacking = api;
    lacking.FAKE_LACKS = 0;
    return &lacking;
#else
    return &api;
#endif
}
