/* Counting zeros: checks the tensors, packs them into a table, clears the result, launches. Knows
 * nothing of models. */
#include "sparsity.cuh"

#include "launch.cuh"
#include "operations.h"

namespace y5 {

/* Alignment of the words an element is read in: for a complex one, of each half. */
static size_t
alignment_of(y5_dtype dtype)
{
    bool halves = dtype >= Y5_COMPLEX32 && dtype <= Y5_COMPLEX128;
    return y5_dtype_bytes(dtype) / (halves ? 2 : 1);
}

static y5_cuda_status
check_item(const y5_elements *item, int64_t index, y5_cuda_error *error)
{
    if (item->dtype < 0 || item->dtype >= Y5_DTYPE_COUNT) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "items[%lld]: dtype %d, allowed are 0 to %d",
                    (long long)index, (int)item->dtype, Y5_DTYPE_COUNT - 1);
    }
    return check_elements("items", index, item->data, item->numel, alignment_of(item->dtype),
                          error);
}

static int64_t
fill_entry(const y5_elements *item, uint32_t slot, zero_entry *entry)
{
    entry->data = item->data;
    entry->numel = item->numel;
    entry->mask = y5_zero_mask(item->dtype);
    entry->word_bytes = (uint32_t)y5_dtype_bytes(item->dtype);
    entry->slot = slot;
    return ceil_divide(item->numel, zero_chunk_bytes / (int64_t)entry->word_bytes);
}

y5_cuda_status
sparsity_count(const y5_cuda_where *where, const y5_elements *items, int64_t count, int64_t *zeros,
               int64_t zeros_count, y5_cuda_error *error)
{
    if (zeros == NULL || !is_aligned(zeros, 8) || (zeros_count != 1 && zeros_count != count) ||
        zeros_count > (int64_t)UINT32_MAX) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT,
                    "zeros: %lld numbers at %p, allowed are 1 or %lld, aligned to 8",
                    (long long)zeros_count, (void *)zeros, (long long)count);
    }
    device_guard guard;
    y5_cuda_status status = check_all(items, count, check_item, error);
    if (status == Y5_CUDA_OK) {
        status = guard.enter(where, error);
    }
    if (status == Y5_CUDA_OK && zeros_count > 0) {
        status = check(cudaMemsetAsync(zeros, 0, (size_t)zeros_count * sizeof(*zeros),
                                       (cudaStream_t)where->stream),
                       "sparsity: clearing the result", where->device, error);
    }
    if (status != Y5_CUDA_OK) {
        return status;
    }
    return launch_tables<zero_entry>(
        count,
        [&](int64_t i, zero_entry *entry) {
            return fill_entry(&items[i], zeros_count == 1 ? 0 : (uint32_t)i, entry);
        },
        [&](const auto &table, int64_t) {
            dim3 grid = blocks(blocks_for(table.chunks, guard.multiprocessors()));
            return launch<sparsity_kernel<std::decay_t<decltype(table)>>>(
                where, "sparsity", grid, error, table, (unsigned long long *)zeros);
        });
}

y5_cuda_status
sparsity_sum(const y5_cuda_where *where, const int64_t *zeros, int64_t count, int32_t dtype,
             void *sum, y5_cuda_error *error)
{
    if (dtype != Y5_FLOAT32 && dtype != Y5_FLOAT64) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "sum: dtype %d, allowed are 0 and 1", (int)dtype);
    }
    if (count < 0 || (count > 0 && zeros == NULL) || !is_aligned(zeros, sizeof(*zeros))) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "zeros: %lld numbers at %p, aligned to 8 allowed",
                    (long long)count, (const void *)zeros);
    }
    if (sum == NULL || !is_aligned(sum, y5_dtype_bytes(dtype))) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "sum: a null pointer, or not aligned to its type");
    }
    device_guard guard;
    y5_cuda_status status = guard.enter(where, error);
    if (status != Y5_CUDA_OK) {
        return status;
    }
    return dtype == Y5_FLOAT64
               ? launch<sparsity_sum_kernel<double>>(where, "sparsity", blocks(1), error, zeros,
                                                     count, (double *)sum)
               : launch<sparsity_sum_kernel<float>>(where, "sparsity", blocks(1), error, zeros,
                                                    count, (float *)sum);
}

} // namespace y5
