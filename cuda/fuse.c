/* Folding batch norms into convolutions: checks the pairs, packs them into a table, launches. Knows
 * nothing of modules. */
#include "operations.h"

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
    for (size_t i = 0; i < sizeof(inputs) / sizeof(inputs[0]); i++) {
        good = good && inputs[i] != NULL && is_aligned(inputs[i], bytes);
    }
    return good;
}

typedef struct {
    const y5_fuse_pair *pairs;
    int32_t *doubtful;
} folding;

static y5_cuda_status
check_pair(const void *operation, int64_t i, y5_cuda_error *error)
{
    const y5_fuse_pair *pair = &((const folding *)operation)->pairs[i];
    if (!is_floating(pair->dtype) ||
        (pair->fused_dtype != pair->dtype && pair->fused_dtype != Y5_FLOAT32)) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT,
                            "pairs[%lld]: dtype %d, allowed are 0 to %d; fused_dtype %d, allowed "
                            "are the same and 0",
                            (long long)i, (int)pair->dtype, Y5_FLOATING_COUNT - 1,
                            (int)pair->fused_dtype);
    }
    if (pair->rows < 1 || pair->columns < 1 || pair->rows > Y5_NUMEL_LIMIT / pair->columns) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT,
                            "pairs[%lld]: %lld channels of %lld weights", (long long)i,
                            (long long)pair->rows, (long long)pair->columns);
    }
    if (!has_all_tensors(pair)) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT,
                            "pairs[%lld]: a null pointer, or one not aligned to its elements",
                            (long long)i);
    }
    return Y5_CUDA_OK;
}

static int64_t
fill_entry(const void *operation, int64_t i, void *entry)
{
    const folding *work = operation;
    const y5_fuse_pair *pair = &work->pairs[i];
    *(fuse_entry *)entry = (fuse_entry){*pair, work->doubtful != NULL ? work->doubtful + i : NULL};
    return ceil_divide(pair->rows * pair->columns, fuse_chunk_elements);
}

static y5_cuda_status
launch_table(void *operation, const y5_cuda_call *call, table_head *table, bool many, int64_t first)
{
    (void)operation;
    (void)first;
    int kernel = KERNEL_fuse_few + many;
    void *arguments[] = {table};
    return y5_cuda_launch(call, kernel, "fuse", y5_cuda_grid(call, kernel, table), arguments);
}

y5_cuda_status
y5_cuda_fuse(const y5_cuda_where *where, const y5_fuse_pair *pairs, int64_t count,
             int32_t *doubtful, y5_cuda_error *error)
{
    folding work = {pairs, doubtful};
    const y5_cuda_list list = {
        .count = count,
        .entry_bytes = sizeof(fuse_entry),
        .check = check_pair,
        .fill = fill_entry,
        .launch = launch_table,
        .operation = &work,
        .cleared = doubtful,
        .cleared_bytes = count * (int64_t)sizeof(*doubtful),
        .attempt = "fuse: clearing the flags",
    };
    if (!is_aligned(doubtful, 4)) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT, "doubtful: not aligned to its elements");
    }
    return y5_cuda_run_list(where, &list, error);
}
