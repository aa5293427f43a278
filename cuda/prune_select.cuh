/* The threshold of each layer by radix selection over all layers together, one launch per digit of
 * a key. The first half of prune.cuh; knows nothing of launches.
 *
 * A word is an element's bits; its key is the word without the sign, and keys compare as magnitudes
 * do, NaN above infinity. */
#ifndef Y5_PRUNE_SELECT_CUH
#define Y5_PRUNE_SELECT_CUH

#include "device.cuh"
#include "y5_cuda.h"

namespace y5 {

constexpr int bins_per_thread = digit_bins / block_threads;

/* Histograms of a block: equal digits, which weights are full of, then wait for each other less. */
constexpr int histogram_copies = 2;

/* Keys of 64 bits take more registers than 64. */
constexpr int prune_resident_blocks = 3;

template <typename T> struct key_type {
    typedef uint32_t type;
    static constexpr int bits = 15;
};
template <> struct key_type<float> {
    typedef uint32_t type;
    static constexpr int bits = 31;
};
template <> struct key_type<double> {
    typedef uint64_t type;
    static constexpr int bits = 63;
};
template <typename T> using key = typename key_type<T>::type;

/* Bits of the key below those that `digits` digits decide. */
__host__ __device__ constexpr int
bits_below(int bits, int digits)
{
    return bits > digits * digit_bits ? bits - digits * digit_bits : 0;
}

__device__ __forceinline__ uint32_t
key_of(float weight)
{
    return __float_as_uint(weight) & 0x7fffffffU;
}

__device__ __forceinline__ uint64_t
key_of(double weight)
{
    return (uint64_t)__double_as_longlong(weight) & 0x7fffffffffffffffU;
}

template <typename T>
__device__ __forceinline__ uint32_t
key_of(T weight)
{
    return weight.bits & 0x7fffU;
}

/* with_type_of() where only keys matter, which the 16-bit types have in common. */
template <typename Body>
__device__ __forceinline__ auto
with_key_type_of(y5_dtype dtype, Body body)
{
    return with_type_of(dtype == Y5_BFLOAT16 ? Y5_FLOAT16 : dtype, body);
}

__device__ __forceinline__ int
elements_of_chunk(const y5_prune_layer &layer, uint32_t chunk)
{
    int64_t rest = layer.numel - (int64_t)chunk * prune_chunk_elements;
    return rest < prune_chunk_elements ? (int)rest : prune_chunk_elements;
}

/* Calls each(i, pack) for this thread's share of `packs` packs of 16 bytes. */
template <typename T, typename Body>
__device__ __forceinline__ void
for_each_pack(const T *weights, int packs, Body each)
{
    constexpr int width = 16 / (int)sizeof(T);
    constexpr int loads = width == 4 ? 4 : 1; /* float32 is what layers are made of */
#pragma unroll 1
    for (int base = thread_number(); base < packs; base += block_threads * loads) {
        packed<T, width> part[loads];
#pragma unroll
        for (int i = 0; i < loads; i++) { /* all loads before the first use */
            int at = base + i * block_threads;
            if (at < packs) {
                part[i] = load_packed<T, width>(weights, at);
            }
        }
#pragma unroll
        for (int i = 0; i < loads; i++) {
            int at = base + i * block_threads;
            if (at < packs) {
                each(at, part[i]);
            }
        }
    }
}

/* Calls body(key) for this thread's part of `count` elements. */
template <typename T, typename Body>
__device__ __forceinline__ void
for_each_key(const T *weights, int count, Body body)
{
    constexpr int width = 16 / (int)sizeof(T);
    int packs = is_packed<T, width>(weights) ? count / width : 0;
    for_each_pack(weights, packs, [&](int, const packed<T, width> &part) {
#pragma unroll
        for (int j = 0; j < width; j++) {
            body(key_of(unpack(part.word, j, T())));
        }
    });
#pragma unroll 1
    for (int i = packs * width + thread_number(); i < count; i += block_threads) {
        body(key_of(weights[i]));
    }
}

/* Adds the digits of the keys that agree with all digits before to a histogram in shared memory. */
template <typename T>
__device__ __forceinline__ void
count_digits(const y5_prune_layer &layer, uint64_t known, uint32_t chunk, int digit,
             uint32_t *histogram)
{
    constexpr int bits = key_type<T>::bits;
    int above = bits_below(bits, digit);
    int below = bits_below(bits, digit + 1);
    key<T> wanted = (key<T>)(known >> below >> (above - below));
    key<T> digit_mask = ((key<T>)1 << (above - below)) - 1;
    const T *weights = (const T *)layer.weights + (int64_t)chunk * prune_chunk_elements;
    for_each_key(weights, elements_of_chunk(layer, chunk), [&](key<T> found) {
        if (found >> below >> (above - below) == wanted) {
            atomicAdd(&histogram[(found >> below) & digit_mask], 1U);
        }
    });
}

/* True in all threads of the block that finishes a launch's work on a layer: everything the others
 * wrote for it is visible. `is_last` is shared memory. */
__device__ __forceinline__ bool
arrive(prune_state *state, uint32_t chunks_done, uint32_t chunks, uint32_t *is_last)
{
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        *is_last = atomicAdd(&state->arrived, chunks_done) + chunks_done == chunks;
        __threadfence();
    }
    __syncthreads();
    bool last = *is_last != 0;
    __syncthreads();
    if (last && threadIdx.x == 0) {
        state->arrived = 0; /* for the next launch */
    }
    return last;
}

/* The sum of the values of all threads in front of this one; `partial` is shared memory. */
__device__ __forceinline__ uint64_t
sum_before(uint64_t value, uint64_t partial[block_warps], uint64_t *total)
{
    int lane = thread_number() % warp_threads;
    int warp = thread_number() / warp_threads;
    uint64_t sum = value;
    for (int step = 1; step < warp_threads; step *= 2) {
        uint64_t other = __shfl_up_sync(0xffffffffU, (unsigned long long)sum, step);
        sum += lane >= step ? other : 0;
    }
    if (lane == warp_threads - 1) {
        partial[warp] = sum;
    }
    __syncthreads();
    uint64_t before = 0;
    *total = 0;
    for (int i = 0; i < block_warps; i++) {
        before += i < warp ? partial[i] : 0;
        *total += partial[i];
    }
    __syncthreads();
    return before + sum - value;
}

/* Decides a digit of a layer's threshold from its histogram, and clears that. */
__device__ __forceinline__ void
choose_digit(const y5_prune_layer &layer, prune_state *state, unsigned long long *histogram,
             int digit, uint64_t *partial)
{
    uint64_t bins[bins_per_thread];
    uint64_t sum = 0;
    int first = thread_number() * bins_per_thread;
#pragma unroll
    for (int i = 0; i < bins_per_thread; i++) {
        bins[i] = __ldcg(&histogram[first + i]);
        histogram[first + i] = 0;
        sum += bins[i];
    }
    uint64_t total = 0;
    uint64_t before = sum_before(sum, partial, &total);
    uint64_t rank = digit == 0 ? (uint64_t)layer.count - 1 : (uint64_t)state->rank;
    __syncthreads(); /* all have read the rank that one now writes */
    if (rank < before || rank >= before + sum) {
        return;
    }
    int bits = key_bits(layer.dtype);
    int below = bits_below(bits, digit + 1);
#pragma unroll
    for (int i = 0; i < bins_per_thread; i++) {
        if (rank >= before && rank < before + bins[i]) {
            uint64_t found = state->key | (uint64_t)(first + i) << below;
            uint64_t wanted = rank - before + 1;
            state->key = found;
            state->rank = (int64_t)(rank - before);
            /* Which of several zeros is pruned makes no difference. */
            state->tied = below == 0 && wanted < bins[i] && found != 0;
            state->tie_chunk = INT64_MAX;
        }
        before += bins[i];
    }
}

/* The launch for digit number `digit`. */
template <typename Table>
__device__ __forceinline__ void
prune_digit(const Table &table, const prune_workspace &workspace, int digit)
{
    __shared__ uint32_t histogram[histogram_copies][digit_bins];
    __shared__ uint64_t partial[block_warps];
    __shared__ uint32_t is_last;
    for (int i = thread_number(); i < digit_bins; i += block_threads) {
        for (int copy = 0; copy < histogram_copies; copy++) {
            histogram[copy][i] = 0;
        }
    }
    __syncthreads();
    uint32_t current = 0;
    uint32_t chunks_done = 0;
    auto flush = [&]() {
        if (chunks_done == 0) {
            return;
        }
        unsigned long long *bins = workspace.histograms + (size_t)current * digit_bins;
        __syncthreads(); /* the counting is over */
        for (int i = thread_number(); i < digit_bins; i += block_threads) {
            uint32_t sum = 0;
            for (int copy = 0; copy < histogram_copies; copy++) {
                sum += histogram[copy][i];
                histogram[copy][i] = 0;
            }
            if (sum > 0) {
                atomicAdd(&bins[i], (unsigned long long)sum);
            }
        }
        uint32_t chunks = table.first_chunk[current + 1] - table.first_chunk[current];
        if (arrive(&workspace.states[current], chunks_done, chunks, &is_last)) {
            choose_digit(table.entries[current], &workspace.states[current], bins, digit, partial);
        }
        chunks_done = 0;
    };
    for_each_chunk(table, [&](uint32_t item, uint32_t chunk) {
        const y5_prune_layer &layer = table.entries[item];
        if (item != current) {
            flush();
            current = item;
        }
        if (!is_selected(&layer) || digit >= digits_of(layer.dtype)) {
            return;
        }
        uint64_t known = workspace.states[item].key;
        uint32_t *copy = histogram[threadIdx.x / warp_threads % histogram_copies];
        with_key_type_of(layer.dtype, [&](auto weight) {
            count_digits<decltype(weight)>(layer, known, chunk, digit, copy);
        });
        chunks_done++;
    });
    flush();
}

} // namespace y5

#endif
