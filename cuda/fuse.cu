/* Folding batch norms into convolutions: checks the pairs, packs them into a table, launches. Knows
 * nothing of modules. */
#include "fuse.cuh"

#include "launch.cuh"
#include "operations.h"

namespace y5 {

/* True where all inputs are there and every tensor can be read as its elements. */
static bool
has_all_tensors(const y5_fuse_pair *pair)
{
    const void *inputs[] = {pair->weight, pair->gamma, pair->beta, pair->mean, pair->variance};
    size_t bytes = y5_dtype_bytes(pair->dtype);
    size_t fused_bytes = y5_dtype_bytes(pair->fused_dtype);
    bool good = pair->fused_weight != NULL && pair->fused_bias != NULL &&
                is_aligned(pair->fused_weight, fused_bytes) &&
                is_aligned(pair->fused_bias, fused_bytes) && is_aligned(pair->bias, bytes);
    for (const void *input : inputs) {
        good = good && input != NULL && is_aligned(input, bytes);
    }
    return good;
}

static y5_cuda_status
check_pair(const y5_fuse_pair *pair, int64_t index, y5_cuda_error *error)
{
    if (!is_floating(pair->dtype) ||
        (pair->fused_dtype != pair->dtype && pair->fused_dtype != Y5_FLOAT32)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT,
                    "pairs[%lld]: dtype %d, allowed are 0 to %d; fused_dtype %d, allowed are the "
                    "same and 0",
                    (long long)index, (int)pair->dtype, Y5_FLOATING_COUNT - 1,
                    (int)pair->fused_dtype);
    }
    if (pair->rows < 1 || pair->columns < 1 || pair->rows > numel_limit / pair->columns) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "pairs[%lld]: %lld channels of %lld weights",
                    (long long)index, (long long)pair->rows, (long long)pair->columns);
    }
    if (!has_all_tensors(pair)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT,
                    "pairs[%lld]: a null pointer, or one not aligned to its elements",
                    (long long)index);
    }
    return Y5_CUDA_OK;
}

y5_cuda_status
fuse(const y5_cuda_where *where, const y5_fuse_pair *pairs, int64_t count, int32_t *doubtful,
     y5_cuda_error *error)
{
    if (!is_aligned(doubtful, 4)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "doubtful: not aligned to its elements");
    }
    device_guard guard;
    y5_cuda_status status = check_all(pairs, count, check_pair, error);
    if (status == Y5_CUDA_OK) {
        status = guard.enter(where, error);
    }
    if (status == Y5_CUDA_OK && doubtful != NULL && count > 0) {
        status = check(cudaMemsetAsync(doubtful, 0, (size_t)count * sizeof(*doubtful),
                                       (cudaStream_t)where->stream),
                       "fuse: clearing the flags", where->device, error);
    }
    if (status != Y5_CUDA_OK) {
        return status;
    }
    return launch_tables<fuse_entry>(
        count,
        [&](int64_t i, fuse_entry *entry) {
            entry->pair = pairs[i];
            entry->doubtful = doubtful != NULL ? doubtful + i : NULL;
            return ceil_divide(pairs[i].rows * pairs[i].columns, fuse_chunk_elements);
        },
        [&](const auto &table, int64_t) {
            dim3 grid = blocks(blocks_for(table.chunks, guard.multiprocessors()));
            return launch<fuse_kernel<std::decay_t<decltype(table)>>>(where, "fuse", grid, error,
                                                                      table);
        });
}

} // namespace y5
