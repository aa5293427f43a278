/* Zeroing the smallest weights: checks the layers, lays out the workspace, launches digit after
 * digit. Knows nothing of modules. */
#include "prune.cuh"

#include "launch.cuh"
#include "operations.h"

namespace y5 {

/* Parts of the workspace begin at multiples of this. */
constexpr int64_t part_bytes = 256;

static int64_t
round_up(int64_t bytes)
{
    return ceil_divide(bytes, part_bytes) * part_bytes;
}

/* Where the parts of the workspace for one table lie. */
struct workspace_layout {
    int64_t histograms;
    int64_t chunk_equals;
    int64_t total;
};

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
prune_workspace_bytes(const y5_prune_layer *layers, int64_t count)
{
    int64_t chunks = 0;
    for (int64_t i = 0; i < count; i++) {
        bool sensible = layers[i].numel >= 0 && layers[i].numel <= numel_limit;
        chunks += sensible ? chunks_of(&layers[i]) : 0; /* prune refuses the others */
    }
    return layout_for(smaller(count, many_items<y5_prune_layer>::capacity), chunks).total;
}

static y5_cuda_status
check_layer(const y5_prune_layer *layer, int64_t index, y5_cuda_error *error)
{
    if (!is_floating(layer->dtype)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "layers[%lld]: dtype %d, allowed are 0 to %d",
                    (long long)index, (int)layer->dtype, Y5_FLOATING_COUNT - 1);
    }
    if (layer->count < 0 || layer->count > layer->numel) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "layers[%lld]: %lld of %lld weights",
                    (long long)index, (long long)layer->count, (long long)layer->numel);
    }
    size_t bytes = y5_dtype_bytes(layer->dtype);
    y5_cuda_status status =
        check_elements("layers", index, layer->weights, layer->numel, bytes, error);
    return status != Y5_CUDA_OK
               ? status
               : check_elements("layers", index, layer->pruned, layer->numel, bytes, error);
}

/* All launches for the layers of one table. */
template <typename Table>
static y5_cuda_status
prune_table(const y5_cuda_where *where, const Table &table, char *memory, int64_t multiprocessors,
            y5_cuda_error *error)
{
    workspace_layout layout = layout_for(table.count, table.chunks);
    prune_workspace workspace = {(prune_state *)(void *)memory,
                                 (unsigned long long *)(void *)(memory + layout.histograms),
                                 (uint32_t *)(void *)(memory + layout.chunk_equals)};
    int digits = 0;
    for (uint32_t i = 0; i < table.count; i++) {
        const y5_prune_layer &layer = table.entries[i];
        digits = is_selected(layer) ? larger(digits, digits_of(layer.dtype)) : digits;
    }
    dim3 grid = blocks(blocks_for(table.chunks, multiprocessors));
    y5_cuda_status status =
        check(cudaMemsetAsync(memory, 0, (size_t)layout.chunk_equals, (cudaStream_t)where->stream),
              "prune: clearing the workspace", where->device, error);
    for (int digit = 0; digit < digits && status == Y5_CUDA_OK; digit++) {
        status = launch<prune_digit_kernel<Table>>(where, "prune: selecting", grid, error, table,
                                                   workspace, digit);
    }
    if (status == Y5_CUDA_OK && digits > 0) {
        status =
            launch<prune_ties_kernel<Table>>(where, "prune: ties", grid, error, table, workspace);
    }
    if (status == Y5_CUDA_OK) {
        status = launch<prune_apply_kernel<Table>>(where, "prune", grid, error, table, workspace);
    }
    return status;
}

y5_cuda_status
prune(const y5_cuda_where *where, const y5_prune_layer *layers, int64_t count, void *workspace,
      int64_t workspace_bytes, y5_cuda_error *error)
{
    y5_cuda_status status = check_all(layers, count, check_layer, error);
    if (status != Y5_CUDA_OK) {
        return status;
    }
    int64_t needed = prune_workspace_bytes(layers, count);
    if (workspace_bytes < needed || (workspace == NULL && needed > 0) ||
        !is_aligned(workspace, part_bytes)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT,
                    "workspace: %lld bytes at %p, needed are %lld aligned to %lld",
                    (long long)workspace_bytes, workspace, (long long)needed,
                    (long long)part_bytes);
    }
    device_guard guard;
    status = guard.enter(where, error);
    if (status != Y5_CUDA_OK) {
        return status;
    }
    return launch_tables<y5_prune_layer>(
        count,
        [&](int64_t i, y5_prune_layer *layer) {
            *layer = layers[i];
            return chunks_of(&layers[i]);
        },
        [&](const auto &table, int64_t) {
            return prune_table(where, table, (char *)workspace, guard.multiprocessors(), error);
        });
}

} // namespace y5
