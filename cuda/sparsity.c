/* Counting zeros: checks the tensors, packs them into a table, clears the result, launches. Knows
 * nothing of models. */
#include "operations.h"

/* Alignment of the words an element is read in: for a complex one, of each half. */
static size_t
alignment_of(y5_dtype dtype)
{
    bool halves = dtype >= Y5_COMPLEX32 && dtype <= Y5_COMPLEX128;
    return y5_dtype_bytes(dtype) / (halves ? 2 : 1);
}

typedef struct {
    const y5_elements *items;
    int64_t *zeros;
    bool each; /* item has its own number */
} counting;

static y5_cuda_status
check_item(const void *operation, int64_t i, y5_cuda_error *error)
{
    const y5_elements *item = &((const counting *)operation)->items[i];
    if (item->dtype < 0 || item->dtype >= Y5_DTYPE_COUNT) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT,
                            "items[%lld]: dtype %d, allowed are 0 to %d", (long long)i,
                            (int)item->dtype, Y5_DTYPE_COUNT - 1);
    }
    return y5_cuda_check_elements("items", i, item->data, item->numel, alignment_of(item->dtype),
                                  error);
}

static int64_t
fill_entry(const void *operation, int64_t i, void *entry)
{
    const counting *work = operation;
    const y5_elements *item = &work->items[i];
    uint32_t word_bytes = (uint32_t)y5_dtype_bytes(item->dtype);
    *(zero_entry *)entry = (zero_entry){item->data, item->numel, y5_zero_mask(item->dtype),
                                        word_bytes, work->each ? (uint32_t)i : 0};
    return ceil_divide(item->numel, zero_chunk_bytes / (int64_t)word_bytes);
}

static y5_cuda_status
launch_table(void *operation, const y5_cuda_call *call, table_head *table, bool many, int64_t first)
{
    (void)first;
    counting *work = operation;
    int kernel = KERNEL_sparsity_few + many;
    void *arguments[] = {table, &work->zeros};
    return y5_cuda_launch(call, kernel, "sparsity", y5_cuda_grid(call, kernel, table), arguments);
}

y5_cuda_status
y5_cuda_sparsity_count(const y5_cuda_where *where, const y5_elements *items, int64_t count,
                       int64_t *zeros, int64_t zeros_count, y5_cuda_error *error)
{
    counting work = {items, zeros, zeros_count != 1};
    const y5_cuda_list list = {
        .count = count,
        .entry_bytes = sizeof(zero_entry),
        .check = check_item,
        .fill = fill_entry,
        .launch = launch_table,
        .operation = &work,
        .cleared = zeros,
        .cleared_bytes = zeros_count * (int64_t)sizeof(*zeros),
        .attempt = "sparsity: clearing the result",
    };
    if (zeros == NULL || !is_aligned(zeros, 8) || (zeros_count != 1 && zeros_count != count) ||
        zeros_count > (int64_t)UINT32_MAX) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT,
                            "zeros: %lld numbers at %p, allowed are 1 or %lld, aligned to 8",
                            (long long)zeros_count, (void *)zeros, (long long)count);
    }
    return y5_cuda_run_list(where, &list, error);
}

y5_cuda_status
y5_cuda_sparsity_sum(const y5_cuda_where *where, const int64_t *zeros, int64_t count, int32_t dtype,
                     void *sum, y5_cuda_error *error)
{
    if (dtype != Y5_FLOAT32 && dtype != Y5_FLOAT64) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT, "sum: dtype %d, allowed are 0 and 1",
                            (int)dtype);
    }
    if (count < 0 || (count > 0 && zeros == NULL) || !is_aligned(zeros, sizeof(*zeros))) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT,
                            "zeros: %lld numbers at %p, aligned to 8 allowed", (long long)count,
                            (const void *)zeros);
    }
    if (sum == NULL || !is_aligned(sum, y5_dtype_bytes(dtype))) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT,
                            "sum: a null pointer, or not aligned to its type");
    }
    y5_cuda_call call;
    y5_cuda_status status = y5_cuda_enter(&call, where, error);
    if (status != Y5_CUDA_OK) {
        return status;
    }
    int kernel = dtype == Y5_FLOAT64 ? KERNEL_sparsity_sum_float64 : KERNEL_sparsity_sum_float32;
    void *arguments[] = {&zeros, &count, &sum};
    return y5_cuda_leave(y5_cuda_launch(&call, kernel, "sparsity", (y5_grid){1, 1, 1}, arguments));
}
