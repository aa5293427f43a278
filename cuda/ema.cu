/* ModelEMA.update: checks the pairs, packs them into a table, launches. Knows neither state dicts
 * nor torch. */
#include "ema.cuh"

#include "launch.cuh"
#include "operations.h"

namespace y5 {

static y5_cuda_status
check_pair(const y5_ema_pair *pair, int64_t index, y5_cuda_error *error)
{
    if (!is_floating(pair->average_dtype) || !is_floating(pair->source_dtype)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT,
                    "pairs[%lld]: dtypes %d and %d, allowed are 0 to %d", (long long)index,
                    (int)pair->average_dtype, (int)pair->source_dtype, Y5_FLOATING_COUNT - 1);
    }
    y5_cuda_status status = check_elements("pairs", index, pair->average, pair->numel,
                                           y5_dtype_bytes(pair->average_dtype), error);
    return status != Y5_CUDA_OK ? status
                                : check_elements("pairs", index, pair->source, pair->numel,
                                                 y5_dtype_bytes(pair->source_dtype), error);
}

static int64_t
fill_entry(const y5_ema_pair *pair, ema_entry *entry)
{
    entry->average = pair->average;
    entry->source = pair->source;
    entry->numel_and_dtypes = (uint64_t)pair->numel * 16 + (uint64_t)pair->average_dtype * 4 +
                              (uint64_t)pair->source_dtype;
    return ceil_divide(pair->numel, ema_chunk_elements);
}

/* The launch for the types of the pairs: all float32, all of one 16-bit type, or whatever they are.
 */
template <typename Table>
static y5_cuda_status
launch_table(const y5_cuda_where *where, const Table &table, const ema_scalars &scalars,
             int32_t type, int64_t multiprocessors, y5_cuda_error *error)
{
    dim3 grid = blocks(blocks_for(table.chunks, multiprocessors));
    switch (type) {
    case Y5_FLOAT32:
        return launch<ema_kernel<ema_of_one_type<float>, Table>>(where, "ema", grid, error, table,
                                                                 scalars);
    case Y5_FLOAT16:
        return launch<ema_kernel<ema_of_one_type<half_bits>, Table>>(where, "ema", grid, error,
                                                                     table, scalars);
    case Y5_BFLOAT16:
        return launch<ema_kernel<ema_of_one_type<bfloat16_bits>, Table>>(where, "ema", grid, error,
                                                                         table, scalars);
    default:
        return launch<ema_kernel<ema_of_any_types, Table>>(where, "ema", grid, error, table,
                                                           scalars);
    }
}

/* The failure of a launch behind others: whoever began again would average their pairs twice. */
static y5_cuda_status
fail_halfway(int64_t updated, int64_t count, y5_cuda_error *error)
{
    y5_cuda_error told = *error;
    y5_cuda_status status =
        fail(error, Y5_CUDA_FAILED, "%lld of %lld tensors were updated and the others were not: %s",
             (long long)updated, (long long)count, told.message);
    error->code = told.code;
    return status;
}

/* The one type of all tensors, or -1. */
static int32_t
common_type(const y5_ema_pair *pairs, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (pairs[i].average_dtype != pairs[0].average_dtype ||
            pairs[i].source_dtype != pairs[0].average_dtype) {
            return -1;
        }
    }
    return count > 0 ? pairs[0].average_dtype : -1;
}

y5_cuda_status
ema_update(const y5_cuda_where *where, const y5_ema_pair *pairs, int64_t count, double decay,
           y5_cuda_error *error)
{
    double rest = 1.0 - decay;
    ema_scalars scalars = {{decay, rest}, {(float)decay, (float)rest}};
    device_guard guard;
    y5_cuda_status status = check_all(pairs, count, check_pair, error);
    if (status == Y5_CUDA_OK) {
        status = guard.enter(where, error);
    }
    if (status != Y5_CUDA_OK) {
        return status;
    }
    int32_t type = common_type(pairs, count);
    int64_t updated = 0;
    status = launch_tables<ema_entry>(
        count, [&](int64_t i, ema_entry *entry) { return fill_entry(&pairs[i], entry); },
        [&](const auto &table, int64_t first) {
            y5_cuda_status launched =
                launch_table(where, table, scalars, type, guard.multiprocessors(), error);
            updated = launched == Y5_CUDA_OK ? first + table.count : updated;
            return launched;
        });
    return status != Y5_CUDA_OK && updated > 0 ? fail_halfway(updated, count, error) : status;
}

} // namespace y5
