/* Counting zeros: checks the tensors, packs them into a table, clears the result, launches. Knows
 * nothing of models. */
#include "sparsity.cuh"

#include "launch.cuh"
#include "operations.h"

namespace y5 {

/* How a type spells zero: all bits under the mask are clear. */
struct zero_pattern {
    uint32_t word_bytes;
    uint64_t mask; /* repeated to 64 bits */
};

static zero_pattern
pattern_of(int32_t dtype)
{
    switch (dtype) {
    case Y5_CUDA_FLOAT32:
        return {4, 0x7fffffff7fffffffU};
    case Y5_CUDA_FLOAT64:
        return {8, 0x7fffffffffffffffU};
    case Y5_CUDA_FLOAT16:
    case Y5_CUDA_BFLOAT16:
        return {2, 0x7fff7fff7fff7fffU};
    case Y5_CUDA_COMPLEX32:
        return {4, 0x7fff7fff7fff7fffU};
    case Y5_CUDA_COMPLEX64:
        return {8, 0x7fffffff7fffffffU};
    case Y5_CUDA_COMPLEX128:
        return {16, 0x7fffffffffffffffU};
    case Y5_CUDA_INT16:
        return {2, ~(uint64_t)0};
    case Y5_CUDA_INT32:
        return {4, ~(uint64_t)0};
    case Y5_CUDA_INT64:
        return {8, ~(uint64_t)0};
    case Y5_CUDA_FLOAT8:
        return {1, 0x7f7f7f7f7f7f7f7fU};
    default: /* INT8, FLOAT8_FNUZ */
        return {1, ~(uint64_t)0};
    }
}

/* Alignment of the words an element is read in. */
static size_t
alignment_of(int32_t dtype)
{
    switch (dtype) {
    case Y5_CUDA_COMPLEX32:
        return 2;
    case Y5_CUDA_COMPLEX64:
        return 4;
    case Y5_CUDA_COMPLEX128:
        return 8;
    default:
        return pattern_of(dtype).word_bytes;
    }
}

static y5_cuda_status
check_item(const y5_cuda_zero_count *item, int64_t index, y5_cuda_error *error)
{
    if (item->dtype < 0 || item->dtype >= Y5_CUDA_DTYPE_COUNT) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "items[%lld]: dtype %d, allowed are 0 to %d",
                    (long long)index, (int)item->dtype, Y5_CUDA_DTYPE_COUNT - 1);
    }
    if (item->numel < 0 || item->numel > numel_limit) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "items[%lld]: %lld elements", (long long)index,
                    (long long)item->numel);
    }
    if (item->numel > 0 && item->data == NULL) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "items[%lld]: a null pointer", (long long)index);
    }
    if (!is_aligned(item->data, alignment_of(item->dtype))) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "items[%lld]: not aligned to its elements",
                    (long long)index);
    }
    return Y5_CUDA_OK;
}

static int64_t
fill_entry(const y5_cuda_zero_count *item, uint32_t slot, zero_entry *entry)
{
    zero_pattern pattern = pattern_of(item->dtype);
    entry->data = item->data;
    entry->numel = item->numel;
    entry->mask = pattern.mask;
    entry->word_bytes = pattern.word_bytes;
    entry->slot = slot;
    return ceil_divide(item->numel, zero_chunk_bytes / (int64_t)pattern.word_bytes);
}

y5_cuda_status
sparsity_count(const y5_cuda_where *where, const y5_cuda_zero_count *items, int64_t count,
               int64_t *zeros, int64_t zeros_count, y5_cuda_error *error)
{
    if (zeros == NULL || !is_aligned(zeros, 8) || (zeros_count != 1 && zeros_count != count) ||
        zeros_count > (int64_t)UINT32_MAX) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT,
                    "zeros: %lld numbers at %p, allowed are 1 or %lld, aligned to 8",
                    (long long)zeros_count, (void *)zeros, (long long)count);
    }
    for (int64_t i = 0; i < count; i++) {
        y5_cuda_status status = check_item(&items[i], i, error);
        if (status != Y5_CUDA_OK) {
            return status;
        }
    }
    device_guard guard;
    y5_cuda_status status = guard.enter(where, error);
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
    if (dtype != Y5_CUDA_FLOAT32 && dtype != Y5_CUDA_FLOAT64) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "sum: dtype %d, allowed are 0 and 1", (int)dtype);
    }
    if (count < 0 || (count > 0 && zeros == NULL) || !is_aligned(zeros, sizeof(*zeros))) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "zeros: %lld numbers at %p, aligned to 8 allowed",
                    (long long)count, (const void *)zeros);
    }
    if (sum == NULL || !is_aligned(sum, floating_bytes(dtype))) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "sum: a null pointer, or not aligned to its type");
    }
    device_guard guard;
    y5_cuda_status status = guard.enter(where, error);
    if (status != Y5_CUDA_OK) {
        return status;
    }
    return dtype == Y5_CUDA_FLOAT64
               ? launch<sparsity_sum_kernel<double>>(where, "sparsity", blocks(1), error, zeros,
                                                     count, (double *)sum)
               : launch<sparsity_sum_kernel<float>>(where, "sparsity", blocks(1), error, zeros,
                                                    count, (float *)sum);
}

} // namespace y5
