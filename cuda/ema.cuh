/* ModelEMA.update on the device: two products and one sum, each rounded, in one pass over all
 * pairs. The twin of csrc/core/ema.inc; knows nothing of launches. */
#ifndef Y5_EMA_CUH
#define Y5_EMA_CUH

#include "device.cuh"
#include "y5_cuda.h"

namespace y5 {

/* The scalars in one type. */
template <typename Wide> struct ema_factors {
    Wide decay;
    Wide rest;
};

__device__ __forceinline__ ema_factors<float>
factors_of(const ema_scalars &scalars, float)
{
    return {scalars.decay_in_float, scalars.rest_in_float};
}

__device__ __forceinline__ ema_factors<double>
factors_of(const ema_scalars &scalars, double)
{
    return {scalars.decay, scalars.rest};
}

/* Each product is rounded to its own tensor's type; the sum is taken in the wider of both. */
template <typename To, typename From>
__device__ __forceinline__ To
ema_element(To average, From source, const ema_scalars &scalars)
{
    wide<To> kept = rounded<To>(multiply(widen(average), factors_of(scalars, wide<To>()).decay));
    wide<From> added =
        rounded<From>(multiply(widen(source), factors_of(scalars, wide<From>()).rest));
    typedef decltype(kept + added) sum;
    return narrow<To>(add((sum)kept, (sum)added));
}

template <typename To, typename From, int loads_at_once>
__device__ __forceinline__ void
ema_chunk(const ema_entry &entry, int64_t first, int count, const ema_scalars &scalars)
{
    constexpr int width = 16 / larger((int)sizeof(To), (int)sizeof(From));
    constexpr int most = ema_chunk_elements / block_threads / width; /* in a chunk, per thread */
    constexpr int loads = most < loads_at_once ? most : loads_at_once;
    To *average = (To *)entry.average + first;
    const From *source = (const From *)entry.source + first;
    int packs = is_packed<To, width>(average) && is_packed<From, width>(source) ? count / width : 0;
#pragma unroll 1
    for (int base = thread_number(); base < packs; base += block_threads * loads) {
        packed<To, width> kept[loads];
        packed<From, width> added[loads];
#pragma unroll
        for (int i = 0; i < loads; i++) { /* all loads before the first use */
            int at = base + i * block_threads;
            if (at < packs) {
                kept[i] = load_packed<To, width>(average, at);
                added[i] = load_packed<From, width>(source, at);
            }
        }
#pragma unroll
        for (int i = 0; i < loads; i++) {
            int at = base + i * block_threads;
            if (at < packs) {
                packed<To, width> updated;
#pragma unroll
                for (int j = 0; j < width; j++) {
                    To value = unpack(kept[i].word, j, To());
                    pack(updated.word, j,
                         ema_element(value, unpack(added[i].word, j, From()), scalars));
                }
                store_packed<To, width>(average, at, updated);
            }
        }
    }
#pragma unroll 1
    for (int i = packs * width + thread_number(); i < count; i += block_threads) {
        average[i] = ema_element(average[i], source[i], scalars);
    }
}

/* Pairs that are all of one type: registers for several loads at once. */
template <typename T> struct ema_of_one_type {
    static __device__ __forceinline__ void chunk(const ema_entry &entry, int64_t first, int count,
                                                 const ema_scalars &scalars)
    {
        ema_chunk<T, T, 4>(entry, first, count, scalars);
    }
};

/* Pairs of any types. */
struct ema_of_any_types {
    static __device__ __forceinline__ void chunk(const ema_entry &entry, int64_t first, int count,
                                                 const ema_scalars &scalars)
    {
        y5_dtype to = (y5_dtype)(entry.numel_and_dtypes / 4 % 4);
        y5_dtype from = (y5_dtype)(entry.numel_and_dtypes % 4);
        with_type_of(to, [&](auto average) {
            with_type_of(from, [&](auto source) {
                ema_chunk<decltype(average), decltype(source), 1>(entry, first, count, scalars);
            });
        });
    }
};

template <typename Types, typename Table>
__device__ __forceinline__ void
ema(const Table &table, const ema_scalars &scalars)
{
    for_each_chunk(table, [&](uint32_t item, uint32_t chunk) {
        const ema_entry &entry = table.entries[item];
        int64_t first = (int64_t)chunk * ema_chunk_elements;
        int64_t rest = (int64_t)(entry.numel_and_dtypes / 16) - first;
        int count = rest < ema_chunk_elements ? (int)rest : ema_chunk_elements;
        Types::chunk(entry, first, count, scalars);
    });
}

} // namespace y5

#endif
