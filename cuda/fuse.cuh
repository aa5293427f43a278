/* Folding a batch norm into the convolution before it, any number of pairs in one pass: every
 * operation rounded to the inputs' type, as the original's torch operations do. Knows nothing of
 * launches. */
#ifndef Y5_FUSE_CUH
#define Y5_FUSE_CUH

#include "device.cuh"
#include "y5_cuda.h"

namespace y5 {

/* sqrt(variance + epsilon) of one channel. */
template <typename T>
__device__ __forceinline__ wide<T>
fuse_root(const y5_fuse_pair &pair, int64_t channel)
{
    wide<T> variance = widen(((const T *)pair.variance)[channel]);
    wide<T> sum = rounded<T>(add(variance, (wide<T>)pair.epsilon));
    return rounded<T>(square_root(sum));
}

template <typename T>
__device__ __forceinline__ wide<T>
fuse_scale(const y5_fuse_pair &pair, int64_t channel)
{
    wide<T> gamma = widen(((const T *)pair.gamma)[channel]);
    return rounded<T>(divide(gamma, fuse_root<T>(pair, channel)));
}

/* NaN or infinite: the difference to itself is not zero. */
template <typename Wide>
__device__ __forceinline__ bool
is_nonfinite(Wide value)
{
    return !(add(value, -value) == (Wide)0);
}

/* scale * value as a row of the original's matrix product: zeros added turn -0 into +0. Doubtful
 * where that product may have other bits: it spreads what is not finite over the column, and keeps
 * the sign of what vanishes. */
template <typename T>
__device__ __forceinline__ wide<T>
fuse_product(wide<T> scale, wide<T> value, bool *doubtful)
{
    wide<T> product = rounded<T>(multiply(scale, value));
    *doubtful |= is_nonfinite(value) || (product == 0 && value != 0 && scale != 0);
    return add(product, (wide<T>)0);
}

/* The fused bias of one channel. */
template <typename T, typename Out>
__device__ __forceinline__ void
fuse_bias(const y5_fuse_pair &pair, int64_t channel, bool *doubtful)
{
    wide<T> gamma = widen(((const T *)pair.gamma)[channel]);
    wide<T> mean = widen(((const T *)pair.mean)[channel]);
    wide<T> beta = widen(((const T *)pair.beta)[channel]);
    wide<T> root = fuse_root<T>(pair, channel);
    wide<T> scale = rounded<T>(divide(gamma, root));
    wide<T> shift = rounded<T>(divide(rounded<T>(multiply(gamma, mean)), root));
    wide<T> moved = rounded<T>(add(beta, -shift));
    wide<T> bias = pair.bias != NULL ? widen(((const T *)pair.bias)[channel]) : (wide<T>)0;
    wide<T> result = rounded<T>(add(fuse_product<T>(scale, bias, doubtful), moved));
    ((Out *)pair.fused_bias)[channel] = narrow<Out>(result);
}

/* `count` weights from `first` on, and the bias of every channel whose row begins among them. */
template <typename T, typename Out>
__device__ __forceinline__ bool
fuse_chunk(const y5_fuse_pair &pair, int64_t first, int count, double *shared)
{
    constexpr int width = 16 / larger((int)sizeof(T), (int)sizeof(Out));
    wide<T> *scales = reinterpret_cast<wide<T> *>(shared);
    int64_t channel = first / pair.columns;
    int64_t begun = first - channel * pair.columns; /* elements of this row before the chunk */
    int64_t row_end = pair.columns - begun;
    /* In a chunk 32 bits do: a row longer than two chunks might as well be endless. */
    uint32_t row =
        (uint32_t)(pair.columns < 2 * fuse_chunk_elements ? pair.columns : 2 * fuse_chunk_elements);
    uint32_t before = (uint32_t)(row_end >= count ? 0 : (int64_t)row - row_end);
    int rows = (int)((before + (uint32_t)count - 1) / row) + 1;
    bool doubtful = false;
    __syncthreads(); /* the chunk before has done with the scales */
#pragma unroll 1
    for (int i = thread_number(); i < rows; i += block_threads) {
        scales[i] = fuse_scale<T>(pair, channel + i);
        if (i > 0 || begun == 0) {
            fuse_bias<T, Out>(pair, channel + i, &doubtful);
        }
    }
    __syncthreads();
    const T *weight = (const T *)pair.weight + first;
    Out *fused = (Out *)pair.fused_weight + first;
    auto element = [&](T value, int at) {
        wide<T> scale = scales[(before + (uint32_t)at) / row];
        return narrow<Out>(fuse_product<T>(scale, widen(value), &doubtful));
    };
    int packs = is_packed<T, width>(weight) && is_packed<Out, width>(fused) ? count / width : 0;
#pragma unroll 1
    for (int i = thread_number(); i < packs; i += block_threads) {
        packed<T, width> in = load_packed<T, width>(weight, i);
        packed<Out, width> out;
#pragma unroll
        for (int j = 0; j < width; j++) {
            pack(out.word, j, element(unpack(in.word, j, T()), i * width + j));
        }
        store_packed<Out, width>(fused, i, out);
    }
#pragma unroll 1
    for (int i = packs * width + thread_number(); i < count; i += block_threads) {
        fused[i] = element(weight[i], i);
    }
    return doubtful;
}

template <typename Table>
__device__ __forceinline__ void
fuse(const Table &table)
{
    __shared__ double scales[fuse_chunk_elements + 1];
    for_each_chunk(table, [&](uint32_t item, uint32_t chunk) {
        const fuse_entry &entry = table.entries[item];
        const y5_fuse_pair &pair = entry.pair;
        int64_t first = (int64_t)chunk * fuse_chunk_elements;
        int64_t rest = pair.rows * pair.columns - first;
        int count = rest < fuse_chunk_elements ? (int)rest : fuse_chunk_elements;
        bool doubtful = with_type_of(pair.dtype, [&](auto input) {
            typedef decltype(input) T;
            bool converted = sizeof(T) != sizeof(float) && pair.fused_dtype != pair.dtype;
            return converted ? fuse_chunk<T, float>(pair, first, count, scales)
                             : fuse_chunk<T, T>(pair, first, count, scales);
        });
        if (doubtful && entry.doubtful != NULL) {
            *entry.doubtful = 1; /* whoever writes, writes the same */
        }
    });
}

} // namespace y5

#endif
