/* Counting zeros on the device: words that are zero under a mask, whatever their type. The twin of
 * csrc/core/sparsity.inc; knows nothing of launches. */
#ifndef Y5_SPARSITY_CUH
#define Y5_SPARSITY_CUH

#include "device.cuh"
#include "y5_cuda.h"

namespace y5 {

/* Zero elements of 1 or 2 bytes in a word: bits that no carry of the addition sets. */
__device__ __forceinline__ uint32_t
zeros_in_word(uint32_t word, uint32_t low_bits)
{
    return (uint32_t)__popc(~(((word & low_bits) + low_bits) | word | low_bits));
}

/* Zero elements among 16 masked bytes. */
__device__ __forceinline__ uint32_t
zeros_in_pack(const uint32_t word[4], uint32_t word_bytes)
{
    switch (word_bytes) {
    case 1:
        return zeros_in_word(word[0], 0x7f7f7f7fU) + zeros_in_word(word[1], 0x7f7f7f7fU) +
               zeros_in_word(word[2], 0x7f7f7f7fU) + zeros_in_word(word[3], 0x7f7f7f7fU);
    case 2:
        return zeros_in_word(word[0], 0x7fff7fffU) + zeros_in_word(word[1], 0x7fff7fffU) +
               zeros_in_word(word[2], 0x7fff7fffU) + zeros_in_word(word[3], 0x7fff7fffU);
    case 4:
        return (uint32_t)(word[0] == 0) + (word[1] == 0) + (word[2] == 0) + (word[3] == 0);
    case 8:
        return (uint32_t)((word[0] | word[1]) == 0) + ((word[2] | word[3]) == 0);
    default:
        return (word[0] | word[1] | word[2] | word[3]) == 0;
    }
}

/* True where one element is zero; data need not be aligned beyond the element's own halves. */
__device__ __forceinline__ bool
is_zero_element(const void *data, int64_t index, uint32_t word_bytes, uint64_t mask)
{
    switch (word_bytes) {
    case 1:
        return (((const uint8_t *)data)[index] & (uint8_t)mask) == 0;
    case 2:
        return (((const uint16_t *)data)[index] & (uint16_t)mask) == 0;
    case 4:
        return (((const uint32_t *)data)[index] & (uint32_t)mask) == 0;
    case 8: {
        const uint32_t *word = (const uint32_t *)data + index * 2; /* complex64 lies at 4 bytes */
        return ((word[0] & (uint32_t)mask) | (word[1] & (uint32_t)(mask >> 32))) == 0;
    }
    default: {
        const uint64_t *word = (const uint64_t *)data + index * 2;
        return ((word[0] | word[1]) & mask) == 0;
    }
    }
}

/* This thread's zeros among `count` elements from `first` on. */
__device__ __forceinline__ uint32_t
zeros_of_thread(const zero_entry &entry, int64_t first, int count)
{
    constexpr int loads = 4;
    const uint8_t *data = (const uint8_t *)entry.data + first * entry.word_bytes;
    int per_pack = 16 / (int)entry.word_bytes;
    int packs = (uintptr_t)data % 16 == 0 ? count / per_pack : 0;
    uint32_t low = (uint32_t)entry.mask;
    uint32_t high = (uint32_t)(entry.mask >> 32);
    uint32_t zeros = 0;
#pragma unroll 1
    for (int base = thread_number(); base < packs; base += block_threads * loads) {
        packed<uint32_t, 4> pack[loads];
#pragma unroll
        for (int i = 0; i < loads; i++) {
            int at = base + i * block_threads;
            if (at < packs) {
                pack[i] = load_packed<uint32_t, 4>((const uint32_t *)(const void *)data, at);
            } else {
                pack[i] = {{~0U, ~0U, ~0U, ~0U}}; /* no zero under any mask */
            }
        }
#pragma unroll
        for (int i = 0; i < loads; i++) {
            uint32_t word[4] = {pack[i].word[0] & low, pack[i].word[1] & high,
                                pack[i].word[2] & low, pack[i].word[3] & high};
            zeros += zeros_in_pack(word, entry.word_bytes);
        }
    }
#pragma unroll 1
    for (int i = packs * per_pack + thread_number(); i < count; i += block_threads) {
        zeros += is_zero_element(data, i, entry.word_bytes, entry.mask);
    }
    return zeros;
}

/* zeros[slot] += zeros of the items; one addition per block and slot. */
template <typename Table>
__device__ __forceinline__ void
sparsity(const Table &table, unsigned long long *zeros)
{
    __shared__ uint32_t partial[block_warps];
    uint32_t found = 0; /* of this thread; a block's share stays far below 2^32 elements */
    uint32_t slot = 0;
    auto flush = [&]() {
        uint32_t sum = block_sum(found, partial);
        if (sum > 0) { /* only in thread 0 */
            atomicAdd(&zeros[slot], (unsigned long long)sum);
        }
        found = 0;
    };
    for_each_chunk(table, [&](uint32_t item, uint32_t chunk) {
        const zero_entry &entry = table.entries[item];
        if (entry.slot != slot) {
            flush();
            slot = entry.slot;
        }
        int chunk_elements = zero_chunk_bytes / (int)entry.word_bytes;
        int64_t first = (int64_t)chunk * chunk_elements;
        int64_t rest = entry.numel - first;
        found += zeros_of_thread(entry, first, rest < chunk_elements ? (int)rest : chunk_elements);
    });
    flush();
}

/* *sum = the numbers added up in order, each of them and each sum rounded to T; for one block. The
 * block loads, its first thread adds: what is behind the end counts as 0, which changes no sum. */
template <typename T>
__device__ __forceinline__ void
sparsity_sum(const int64_t *zeros, int64_t count, T *sum)
{
    __shared__ T numbers[block_threads];
    T total = 0;
#pragma unroll 1
    for (int64_t base = 0; base < count; base += block_threads) {
        int64_t at = base + (int64_t)threadIdx.x;
        numbers[threadIdx.x] = at < count ? (T)zeros[at] : (T)0;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int i = 0; i < block_threads; i++) {
                total = add(total, numbers[i]);
            }
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        *sum = total;
    }
}

} // namespace y5

#endif
