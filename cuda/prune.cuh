/* Zeroing the smallest weights of all layers together: what prune_select.cuh selected, then ties by
 * position, then the result. The twin of csrc/core/prune.inc; knows nothing of launches. */
#ifndef Y5_PRUNE_CUH
#define Y5_PRUNE_CUH

#include "prune_select.cuh"

namespace y5 {

/* Keys of this thread's part of a chunk that equal the threshold. */
template <typename T>
__device__ __forceinline__ uint32_t
equals_of_thread(const y5_prune_layer &layer, uint64_t threshold, uint32_t chunk)
{
    uint32_t equal = 0;
    const T *weights = (const T *)layer.weights + (int64_t)chunk * prune_chunk_elements;
    for_each_key(weights, elements_of_chunk(layer, chunk),
                 [&](key<T> found) { equal += found == (key<T>)threshold; });
    return equal;
}

/* Finds the chunk in which the last of the equal keys that are pruned lies. */
__device__ __forceinline__ void
choose_tie_chunk(prune_state *state, const uint32_t *chunk_equals, uint32_t chunks,
                 uint64_t *partial)
{
    uint64_t wanted = (uint64_t)state->rank + 1;
    uint64_t passed = 0;
    for (uint32_t base = 0; base < chunks && passed < wanted; base += block_threads) {
        uint32_t chunk = base + threadIdx.x;
        uint64_t equal = chunk < chunks ? __ldcg(&chunk_equals[chunk]) : 0;
        uint64_t total = 0;
        uint64_t before = passed + sum_before(equal, partial, &total);
        if (before < wanted && wanted <= before + equal) {
            state->tie_chunk = chunk;
            state->tie_wanted = (int64_t)(wanted - before);
        }
        passed += total;
    }
}

template <typename Table>
__device__ __forceinline__ void
prune_ties(const Table &table, const prune_workspace &workspace)
{
    __shared__ uint64_t partial[block_warps];
    __shared__ uint32_t warp_equals[block_warps];
    __shared__ uint32_t is_last;
    uint32_t current = 0;
    uint32_t chunks_done = 0;
    auto finish = [&]() {
        if (chunks_done == 0) {
            return;
        }
        prune_state *state = &workspace.states[current];
        uint32_t first = table.first_chunk[current];
        uint32_t chunks = table.first_chunk[current + 1] - first;
        if (arrive(state, chunks_done, chunks, &is_last)) {
            choose_tie_chunk(state, workspace.chunk_equals + first, chunks, partial);
        }
        chunks_done = 0;
    };
    for_each_chunk(table, [&](uint32_t item, uint32_t chunk) {
        const y5_prune_layer &layer = table.entries[item];
        if (item != current) {
            finish();
            current = item;
        }
        const prune_state *state = &workspace.states[item];
        if (!state->tied) {
            return;
        }
        uint32_t equal = with_key_type_of(layer.dtype, [&](auto weight) {
            return equals_of_thread<decltype(weight)>(layer, state->key, chunk);
        });
        uint32_t sum = block_sum(equal, warp_equals);
        if (threadIdx.x == 0) {
            workspace.chunk_equals[table.first_chunk[item] + chunk] = sum;
        }
        chunks_done++;
    });
    finish();
}

/* mask * weight, as the original multiplies. */
template <typename T>
__device__ __forceinline__ T
masked(T weight, bool pruned)
{
    return narrow<T>(multiply(widen(weight), (wide<T>)(pruned ? 0 : 1)));
}

/* Prunes the keys below `bound`. */
template <typename T>
__device__ __forceinline__ void
apply_bound(const T *weights, T *pruned, int count, key<T> bound)
{
    constexpr int width = 16 / (int)sizeof(T);
    int packs = is_packed<T, width>(weights) && is_packed<T, width>(pruned) ? count / width : 0;
    for_each_pack(weights, packs, [&](int at, const packed<T, width> &part) {
        packed<T, width> result;
#pragma unroll
        for (int j = 0; j < width; j++) {
            T weight = unpack(part.word, j, T());
            pack(result.word, j, masked(weight, key_of(weight) < bound));
        }
        store_packed<T, width>(pruned, at, result);
    });
#pragma unroll 1
    for (int i = packs * width + thread_number(); i < count; i += block_threads) {
        pruned[i] = masked(weights[i], key_of(weights[i]) < bound);
    }
}

/* Prunes the keys below the threshold and the first `wanted` that equal it. */
template <typename T>
__device__ __forceinline__ void
apply_in_order(const T *weights, T *pruned, int count, key<T> threshold, uint32_t wanted,
               uint32_t warp_equals[block_warps])
{
    int warp = thread_number() / warp_threads;
    uint32_t lanes_before = (1U << threadIdx.x % warp_threads) - 1;
    uint32_t passed = 0; /* equal keys in front of the part */
    for (int base = 0; base < count; base += block_threads) {
        int at = base + thread_number();
        bool inside = at < count;
        T weight = weights[inside ? at : 0];
        key<T> found = key_of(weight);
        uint32_t equals = __ballot_sync(0xffffffffU, inside && found == threshold);
        warp_equals[warp] = (uint32_t)__popc(equals);
        __syncthreads();
        uint32_t before = passed + (uint32_t)__popc(equals & lanes_before);
        for (int i = 0; i < block_warps; i++) {
            before += i < warp ? warp_equals[i] : 0;
            passed += warp_equals[i];
        }
        __syncthreads();
        if (inside) {
            bool prune = found < threshold || (found == threshold && before < wanted);
            pruned[at] = masked(weight, prune);
        }
    }
}

template <typename T>
__device__ __forceinline__ void
apply_chunk(const y5_prune_layer &layer, const prune_state &state, uint32_t chunk,
            uint32_t warp_equals[block_warps])
{
    int64_t first = (int64_t)chunk * prune_chunk_elements;
    int count = elements_of_chunk(layer, chunk);
    const T *weights = (const T *)layer.weights + first;
    T *pruned = (T *)layer.pruned + first;
    key<T> threshold = (key<T>)state.key;
    if (!is_selected(&layer)) {
        key<T> all = (key<T>)1 << key_type<T>::bits;
        apply_bound(weights, pruned, count, layer.count > 0 ? all : 0);
    } else if (state.tie_chunk == (int64_t)chunk) {
        apply_in_order(weights, pruned, count, threshold, (uint32_t)state.tie_wanted, warp_equals);
    } else {
        bool equal_too = (int64_t)chunk < state.tie_chunk;
        apply_bound(weights, pruned, count, (key<T>)(threshold + equal_too));
    }
}

template <typename Table>
__device__ __forceinline__ void
prune_apply(const Table &table, const prune_workspace &workspace)
{
    __shared__ uint32_t warp_equals[block_warps];
    for_each_chunk(table, [&](uint32_t item, uint32_t chunk) {
        const y5_prune_layer &layer = table.entries[item];
        const prune_state &state = workspace.states[item];
        with_type_of(layer.dtype, [&](auto weight) {
            apply_chunk<decltype(weight)>(layer, state, chunk, warp_equals);
        });
    });
}

} // namespace y5

#endif
