/* Checks and tables that all launchers have in common. */
#include "launch.h"

y5_cuda_status
y5_cuda_check_elements(const char *list, int64_t index, const void *data, int64_t numel,
                       size_t alignment, y5_cuda_error *error)
{
    if (numel < 0 || numel > Y5_NUMEL_LIMIT) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT, "%s[%lld]: %lld elements", list,
                            (long long)index, (long long)numel);
    }
    if (numel > 0 && data == NULL) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT, "%s[%lld]: a null pointer", list,
                            (long long)index);
    }
    if (!is_aligned(data, alignment)) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT, "%s[%lld]: not aligned to its elements",
                            list, (long long)index);
    }
    return Y5_CUDA_OK;
}

/* Fills a table that has room for `room` items with those from `first` on; returns the first that
 * is left. */
static int64_t
fill_table(const y5_cuda_list *list, table_head *table, int room, int64_t first)
{
    uint32_t *first_chunk = (uint32_t *)(table + 1);
    char *entries = (char *)table + Y5_TABLE_ITEMS_AT(room);
    int64_t i = first;
    table->count = 0;
    table->chunks = 0;
    for (; i < list->count && table->count < (uint32_t)room; i++) {
        int64_t chunks = list->fill(list->operation, i, entries + table->count * list->entry_bytes);
        if (chunks > (int64_t)UINT32_MAX - table->chunks) {
            break; /* the next table's; Y5_NUMEL_LIMIT keeps one item below this */
        }
        first_chunk[table->count++] = table->chunks;
        table->chunks += (uint32_t)chunks;
    }
    first_chunk[table->count] = table->chunks;
    return i;
}

static y5_cuda_status
launch_tables(const y5_cuda_list *list, const y5_cuda_call *call)
{
    union {
        table_head head;
        uint64_t words[many_bytes / 8];
    } table;
    const int few = Y5_TABLE_ROOM(few_bytes, list->entry_bytes);
    const int most = Y5_TABLE_ROOM(many_bytes, list->entry_bytes);
    bool many = list->count > few || fill_table(list, &table.head, few, 0) < list->count;
    y5_cuda_status status = Y5_CUDA_OK;
    for (int64_t first = 0; first < list->count && status == Y5_CUDA_OK;) {
        int64_t next = fill_table(list, &table.head, many ? most : few, first);
        if (table.head.chunks > 0) {
            status = list->launch(list->operation, call, &table.head, many, first);
        }
        first = next;
    }
    return status;
}

y5_cuda_status
y5_cuda_run_list(const y5_cuda_where *where, const y5_cuda_list *list, y5_cuda_error *error)
{
    y5_cuda_call call;
    y5_cuda_status status = Y5_CUDA_OK;
    for (int64_t i = 0; i < list->count && status == Y5_CUDA_OK; i++) {
        status = list->check(list->operation, i, error);
    }
    if (status == Y5_CUDA_OK) {
        status = y5_cuda_enter(&call, where, error);
    }
    if (status != Y5_CUDA_OK) {
        return status;
    }
    if (list->cleared != NULL && list->cleared_bytes > 0) {
        status = y5_cuda_clear(&call, list->attempt, list->cleared, list->cleared_bytes);
    }
    return y5_cuda_leave(status == Y5_CUDA_OK ? launch_tables(list, &call) : status);
}

y5_grid
y5_cuda_grid(const y5_cuda_call *call, int kernel, const table_head *table)
{
    return y5_grid_for(table->chunks, call->device->resident[kernel]);
}
