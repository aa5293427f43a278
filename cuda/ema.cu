/* ModelEMA.update: checks the pairs, packs them into a table, launches. Knows neither state dicts
 * nor torch. */
#include "ema.cuh"

#include "launch.cuh"
#include "operations.h"

#include <stdlib.h>

namespace y5 {

static y5_cuda_status
check_pair(const y5_cuda_ema_pair *pair, int64_t index, y5_cuda_error *error)
{
    if (!is_floating(pair->average_dtype) || !is_floating(pair->source_dtype)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT,
                    "pairs[%lld]: dtypes %d and %d, allowed are 0 to %d", (long long)index,
                    (int)pair->average_dtype, (int)pair->source_dtype, Y5_CUDA_FLOATING_COUNT - 1);
    }
    if (pair->numel < 0 || pair->numel > numel_limit) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "pairs[%lld]: %lld elements", (long long)index,
                    (long long)pair->numel);
    }
    if (pair->numel > 0 && (pair->average == NULL || pair->source == NULL)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "pairs[%lld]: a null pointer", (long long)index);
    }
    if (!is_aligned(pair->average, floating_bytes(pair->average_dtype)) ||
        !is_aligned(pair->source, floating_bytes(pair->source_dtype))) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "pairs[%lld]: not aligned to its elements",
                    (long long)index);
    }
    return Y5_CUDA_OK;
}

static int64_t
fill_entry(const y5_cuda_ema_pair *pair, ema_entry *entry)
{
    entry->average = pair->average;
    entry->source = pair->source;
    entry->numel_and_dtypes = (uint64_t)pair->numel * 16 + (uint64_t)pair->average_dtype * 4 +
                              (uint64_t)pair->source_dtype;
    return ceil_divide(pair->numel, ema_chunk_elements);
}

/* The arrays of a table in device memory, one behind the other. */
static int64_t
table_bytes(int64_t count)
{
    return count * (int64_t)sizeof(ema_entry) + (count + 1) * (int64_t)sizeof(uint32_t);
}

int64_t
ema_workspace_bytes(int64_t count)
{
    return count <= many_items<ema_entry>::capacity ? 0 : table_bytes(count);
}

/* The launch for the types of the pairs: all float32, all of one 16-bit type, or whatever they are.
 */
template <typename Table>
static y5_cuda_status
launch(const y5_cuda_where *where, const Table &table, const ema_scalars &scalars, int32_t type,
       int64_t multiprocessors, y5_cuda_error *error)
{
    dim3 grid = blocks(blocks_for(table.chunks, multiprocessors));
    switch (type) {
    case Y5_CUDA_FLOAT32:
        Y5_LAUNCH((ema_kernel<ema_of_one_type<float>, Table>), grid, where->stream, table, scalars);
        break;
    case Y5_CUDA_FLOAT16:
        Y5_LAUNCH((ema_kernel<ema_of_one_type<half_bits>, Table>), grid, where->stream, table,
                  scalars);
        break;
    case Y5_CUDA_BFLOAT16:
        Y5_LAUNCH((ema_kernel<ema_of_one_type<bfloat16_bits>, Table>), grid, where->stream, table,
                  scalars);
        break;
    default:
        Y5_LAUNCH((ema_kernel<ema_of_any_types, Table>), grid, where->stream, table, scalars);
        break;
    }
    return check_launch("ema", where, error);
}

/* The one type of all tensors, or -1. */
static int32_t
common_type(const y5_cuda_ema_pair *pairs, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (pairs[i].average_dtype != pairs[0].average_dtype ||
            pairs[i].source_dtype != pairs[0].average_dtype) {
            return -1;
        }
    }
    return count > 0 ? pairs[0].average_dtype : -1;
}

/* One launch with the table in the workspace. `copied` says whether it is there: false where there
 * is no host memory to build it in, or too many chunks for one table. */
static y5_cuda_status
launch_from_workspace(const y5_cuda_where *where, const y5_cuda_ema_pair *pairs, int64_t count,
                      const ema_scalars &scalars, void *workspace, int64_t multiprocessors,
                      bool *launched, y5_cuda_error *error)
{
    *launched = false;
    size_t bytes = (size_t)table_bytes(count);
    char *host = (char *)malloc(bytes);
    if (host == NULL) {
        return Y5_CUDA_OK;
    }
    ema_entry *entries = (ema_entry *)(void *)host;
    uint32_t *first_chunk = (uint32_t *)(void *)(entries + count);
    int64_t chunks = 0;
    for (int64_t i = 0; i < count && chunks <= (int64_t)UINT32_MAX; i++) {
        first_chunk[i] = (uint32_t)chunks;
        chunks += fill_entry(&pairs[i], &entries[i]);
    }
    y5_cuda_status status = Y5_CUDA_OK;
    if (chunks > 0 && chunks <= (int64_t)UINT32_MAX) {
        first_chunk[count] = (uint32_t)chunks;
        /* Memory that is not pinned: the runtime has read it when the call returns. */
        status = check(cudaMemcpyAsync(workspace, host, bytes, cudaMemcpyHostToDevice,
                                       (cudaStream_t)where->stream),
                       "ema: copying the table", where->device, error);
        if (status == Y5_CUDA_OK) {
            const ema_entry *device = (const ema_entry *)workspace;
            device_items<ema_entry> table = {(uint32_t)count, (uint32_t)chunks,
                                             (const uint32_t *)(const void *)(device + count),
                                             device};
            status =
                launch(where, table, scalars, common_type(pairs, count), multiprocessors, error);
        }
        *launched = true;
    }
    free(host);
    return status;
}

y5_cuda_status
ema_update(const y5_cuda_where *where, const y5_cuda_ema_pair *pairs, int64_t count, double decay,
           void *workspace, int64_t workspace_bytes, y5_cuda_error *error)
{
    for (int64_t i = 0; i < count; i++) {
        y5_cuda_status status = check_pair(&pairs[i], i, error);
        if (status != Y5_CUDA_OK) {
            return status;
        }
    }
    int64_t needed = ema_workspace_bytes(count);
    if (workspace != NULL && (workspace_bytes < needed || !is_aligned(workspace, 8))) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT,
                    "workspace: %lld bytes at %p, needed are %lld aligned to 8",
                    (long long)workspace_bytes, workspace, (long long)needed);
    }
    double rest = 1.0 - decay;
    ema_scalars scalars = {decay, rest, (float)decay, (float)rest};
    device_guard guard;
    y5_cuda_status status = guard.enter(where, error);
    bool launched = false;
    if (status == Y5_CUDA_OK && needed > 0 && workspace != NULL) {
        bool capturing = true;
        status = is_capturing(where, &capturing, error);
        if (status == Y5_CUDA_OK && !capturing) {
            status = launch_from_workspace(where, pairs, count, scalars, workspace,
                                           guard.multiprocessors(), &launched, error);
        }
    }
    if (status != Y5_CUDA_OK || launched) {
        return status;
    }
    int32_t type = common_type(pairs, count);
    return launch_tables<ema_entry>(
        count, [&](int64_t i, ema_entry *entry) { return fill_entry(&pairs[i], entry); },
        [&](const auto &table, int64_t) {
            return launch(where, table, scalars, type, guard.multiprocessors(), error);
        });
}

} // namespace y5
