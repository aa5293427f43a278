/* Zeroing the smallest weights: checks the layers, lays out the workspace, launches digit after
 * digit. Knows nothing of modules. */
#include "operations.h"

/* Parts of the workspace begin at multiples of this. */
#define PART_BYTES 256

static int64_t
round_up(int64_t bytes)
{
    return ceil_divide(bytes, PART_BYTES) * PART_BYTES;
}

/* Where the parts of the workspace for one table lie. */
typedef struct {
    int64_t histograms;
    int64_t chunk_equals;
    int64_t total;
} workspace_layout;

static workspace_layout
layout_for(int64_t layers, int64_t chunks)
{
    workspace_layout layout;
    layout.histograms = round_up(layers * (int64_t)sizeof(prune_state));
    layout.chunk_equals = round_up(layout.histograms + layers * digit_bins * 8);
    layout.total = round_up(layout.chunk_equals + chunks * (int64_t)sizeof(uint32_t));
    return layout;
}

static int64_t
chunks_of(const y5_prune_layer *layer)
{
    return ceil_divide(layer->numel, prune_chunk_elements);
}

/* Tables follow one another on the stream and use the same memory; this is enough for any of them,
 * since none holds more than all layers. */
int64_t
y5_cuda_prune_workspace_bytes(const y5_prune_layer *layers, int64_t count)
{
    int64_t chunks = 0;
    for (int64_t i = 0; i < count; i++) {
        bool sensible = layers[i].numel >= 0 && layers[i].numel <= Y5_NUMEL_LIMIT;
        chunks += sensible ? chunks_of(&layers[i]) : 0; /* y5_cuda_prune() refuses the others */
    }
    return layout_for(smaller(count, Y5_TABLE_ROOM(many_bytes, sizeof(*layers))), chunks).total;
}

typedef struct {
    const y5_prune_layer *layers;
    char *memory;
} pruning;

static y5_cuda_status
check_layer(const void *operation, int64_t i, y5_cuda_error *error)
{
    const y5_prune_layer *layer = &((const pruning *)operation)->layers[i];
    if (!is_floating(layer->dtype)) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT,
                            "layers[%lld]: dtype %d, allowed are 0 to %d", (long long)i,
                            (int)layer->dtype, Y5_FLOATING_COUNT - 1);
    }
    if (layer->count < 0 || layer->count > layer->numel) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT, "layers[%lld]: %lld of %lld weights",
                            (long long)i, (long long)layer->count, (long long)layer->numel);
    }
    size_t bytes = y5_dtype_bytes(layer->dtype);
    y5_cuda_status status =
        y5_cuda_check_elements("layers", i, layer->weights, layer->numel, bytes, error);
    return status != Y5_CUDA_OK
               ? status
               : y5_cuda_check_elements("layers", i, layer->pruned, layer->numel, bytes, error);
}

static int64_t
fill_entry(const void *operation, int64_t i, void *entry)
{
    const y5_prune_layer *layer = &((const pruning *)operation)->layers[i];
    *(y5_prune_layer *)entry = *layer;
    return chunks_of(layer);
}

/* All launches for the layers of one table. */
static y5_cuda_status
launch_table(void *operation, const y5_cuda_call *call, table_head *table, bool many, int64_t first)
{
    const pruning *work = operation;
    workspace_layout layout = layout_for(table->count, table->chunks);
    prune_workspace workspace = {
        (prune_state *)(void *)work->memory,
        (unsigned long long *)(void *)(work->memory + layout.histograms),
        (uint32_t *)(void *)(work->memory + layout.chunk_equals),
    };
    int digits = 0;
    for (int64_t i = first; i < first + table->count; i++) {
        int wanted = is_selected(&work->layers[i]) ? digits_of(work->layers[i].dtype) : 0;
        digits = wanted > digits ? wanted : digits;
    }
    int digit = 0;
    void *arguments[] = {table, &workspace, &digit};
    int kernel = KERNEL_prune_digit_few + many;
    y5_grid grid = y5_cuda_grid(call, kernel, table);
    y5_cuda_status status =
        y5_cuda_clear(call, "prune: clearing the workspace", work->memory, layout.chunk_equals);
    for (; digit < digits && status == Y5_CUDA_OK; digit++) {
        status = y5_cuda_launch(call, kernel, "prune: selecting", grid, arguments);
    }
    if (status == Y5_CUDA_OK && digits > 0) {
        kernel = KERNEL_prune_ties_few + many;
        grid = y5_cuda_grid(call, kernel, table);
        status = y5_cuda_launch(call, kernel, "prune: ties", grid, arguments);
    }
    if (status == Y5_CUDA_OK) {
        kernel = KERNEL_prune_apply_few + many;
        grid = y5_cuda_grid(call, kernel, table);
        status = y5_cuda_launch(call, kernel, "prune", grid, arguments);
    }
    return status;
}

y5_cuda_status
y5_cuda_prune(const y5_cuda_where *where, const y5_prune_layer *layers, int64_t count,
              void *workspace, int64_t workspace_bytes, y5_cuda_error *error)
{
    pruning work = {layers, workspace};
    const y5_cuda_list list = {
        .count = count,
        .entry_bytes = sizeof(*layers),
        .check = check_layer,
        .fill = fill_entry,
        .launch = launch_table,
        .operation = &work,
    };
    int64_t needed = y5_cuda_prune_workspace_bytes(layers, count);
    if (workspace_bytes < needed || (workspace == NULL && needed > 0) ||
        !is_aligned(workspace, PART_BYTES)) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT,
                            "workspace: %lld bytes at %p, needed are %lld aligned to %d",
                            (long long)workspace_bytes, workspace, (long long)needed, PART_BYTES);
    }
    return y5_cuda_run_list(where, &list, error);
}
