/* ModelEMA.update: checks the pairs, packs them into a table, launches. Knows neither state dicts
 * nor torch. */
#include "operations.h"

typedef struct {
    const y5_ema_pair *pairs;
    ema_scalars scalars;
    int kernel;      /* for few items; the one for many stands behind it */
    int64_t updated; /* pairs whose launch succeeded */
} update;

static y5_cuda_status
check_pair(const void *operation, int64_t i, y5_cuda_error *error)
{
    const y5_ema_pair *pair = &((const update *)operation)->pairs[i];
    if (!is_floating(pair->average_dtype) || !is_floating(pair->source_dtype)) {
        return y5_cuda_fail(
            error, Y5_CUDA_BAD_ARGUMENT, "pairs[%lld]: dtypes %d and %d, allowed are 0 to %d",
            (long long)i, (int)pair->average_dtype, (int)pair->source_dtype, Y5_FLOATING_COUNT - 1);
    }
    y5_cuda_status status = y5_cuda_check_elements("pairs", i, pair->average, pair->numel,
                                                   y5_dtype_bytes(pair->average_dtype), error);
    return status != Y5_CUDA_OK ? status
                                : y5_cuda_check_elements("pairs", i, pair->source, pair->numel,
                                                         y5_dtype_bytes(pair->source_dtype), error);
}

static int64_t
fill_entry(const void *operation, int64_t i, void *entry)
{
    const y5_ema_pair *pair = &((const update *)operation)->pairs[i];
    *(ema_entry *)entry = (ema_entry){
        pair->average,
        pair->source,
        (uint64_t)pair->numel * 16 + (uint64_t)pair->average_dtype * 4 +
            (uint64_t)pair->source_dtype,
    };
    return ceil_divide(pair->numel, ema_chunk_elements);
}

static y5_cuda_status
launch_table(void *operation, const y5_cuda_call *call, table_head *table, bool many, int64_t first)
{
    update *work = operation;
    int kernel = work->kernel + many;
    void *arguments[] = {table, &work->scalars};
    y5_cuda_status status =
        y5_cuda_launch(call, kernel, "ema", y5_cuda_grid(call, kernel, table), arguments);
    work->updated = status == Y5_CUDA_OK ? first + table->count : work->updated;
    return status;
}

/* The kernel for the types of the pairs: all float32, all of one 16-bit type, or whatever they are.
 */
static int
kernel_for(const y5_ema_pair *pairs, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (pairs[i].average_dtype != pairs[0].average_dtype ||
            pairs[i].source_dtype != pairs[0].average_dtype) {
            return KERNEL_ema_any_few;
        }
    }
    switch (count > 0 ? pairs[0].average_dtype : Y5_FLOAT64) {
    case Y5_FLOAT32:
        return KERNEL_ema_float32_few;
    case Y5_FLOAT16:
        return KERNEL_ema_float16_few;
    case Y5_BFLOAT16:
        return KERNEL_ema_bfloat16_few;
    default:
        return KERNEL_ema_any_few;
    }
}

/* The failure of a launch behind others: whoever began again would average their pairs twice. */
static y5_cuda_status
fail_halfway(int64_t updated, int64_t count, y5_cuda_error *error)
{
    y5_cuda_error told = *error;
    y5_cuda_status status = y5_cuda_fail(
        error, Y5_CUDA_FAILED, "%lld of %lld tensors were updated and the others were not: %s",
        (long long)updated, (long long)count, told.message);
    error->code = told.code;
    return status;
}

y5_cuda_status
y5_cuda_ema_update(const y5_cuda_where *where, const y5_ema_pair *pairs, int64_t count,
                   double decay, y5_cuda_error *error)
{
    double rest = 1.0 - decay;
    update work = {pairs, {decay, rest, (float)decay, (float)rest}, kernel_for(pairs, count), 0};
    const y5_cuda_list list = {
        .count = count,
        .entry_bytes = sizeof(ema_entry),
        .check = check_pair,
        .fill = fill_entry,
        .launch = launch_table,
        .operation = &work,
    };
    y5_cuda_status status = y5_cuda_run_list(where, &list, error);
    return status != Y5_CUDA_OK && work.updated > 0 ? fail_halfway(work.updated, count, error)
                                                    : status;
}
