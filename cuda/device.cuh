/* What every kernel is made of: element types and their roundings, tables of items and the share
 * of a block, sums over a block. Compiles as CUDA, and as host C++ over tests/emu; knows no
 * operation. */
#ifndef Y5_DEVICE_CUH
#define Y5_DEVICE_CUH

#include "kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <stddef.h>
#include <stdint.h>

namespace y5 {

constexpr int warp_threads = 32;
constexpr int block_warps = block_threads / warp_threads;

/* Blocks that a multiprocessor should be able to hold: bounds the registers to 64. */
constexpr int resident_blocks = 4;

/* This thread's number, opaque to the optimiser: it would otherwise compute every branch's
 * addresses in front of the loop over chunks and run out of registers. */
__device__ __forceinline__ int
thread_number()
{
    int number = (int)threadIdx.x;
#ifdef __CUDA_ARCH__
    asm volatile("" : "+r"(number));
#endif
    return number;
}

/* Element types. The 16-bit ones are plain bits: every operation on them is float32's, rounded. The
 * chip has an instruction for each conversion, which torch's kernels take too; the core's half.h
 * would take many. Both round alike, and only a NaN becomes one with other bits. */
struct half_bits {
    uint16_t bits;
};
struct bfloat16_bits {
    uint16_t bits;
};

/* body(a T), T being the type of the elements of one of the four floating dtypes. */
template <typename Body>
__device__ __forceinline__ auto
with_type_of(y5_dtype dtype, Body body)
{
    switch (dtype) {
    case Y5_FLOAT64:
        return body(double());
    case Y5_FLOAT16:
        return body(half_bits());
    case Y5_BFLOAT16:
        return body(bfloat16_bits());
    default:
        return body(float());
    }
}

/* The type an element is computed in, as torch has it. */
template <typename T> struct wide_of {
    typedef float type;
};
template <> struct wide_of<double> {
    typedef double type;
};
template <typename T> using wide = typename wide_of<T>::type;

__device__ __forceinline__ float
widen(float value)
{
    return value;
}

__device__ __forceinline__ double
widen(double value)
{
    return value;
}

__device__ __forceinline__ float
widen(half_bits value)
{
    return __half2float(__ushort_as_half(value.bits));
}

__device__ __forceinline__ float
widen(bfloat16_bits value)
{
    return __uint_as_float((unsigned int)value.bits << 16);
}

/* To the element type, round to nearest even; float64 by way of float32, as c10's types do. */
template <typename T> __device__ __forceinline__ T narrow(double value);
template <typename T> __device__ __forceinline__ T narrow(float value);

template <>
__device__ __forceinline__ float
narrow<float>(float value)
{
    return value;
}

template <>
__device__ __forceinline__ float
narrow<float>(double value)
{
    return __double2float_rn(value);
}

template <>
__device__ __forceinline__ double
narrow<double>(float value)
{
    return (double)value;
}

template <>
__device__ __forceinline__ double
narrow<double>(double value)
{
    return value;
}

template <>
__device__ __forceinline__ half_bits
narrow<half_bits>(float value)
{
    half_bits result = {__half_as_ushort(__float2half_rn(value))};
    return result;
}

template <>
__device__ __forceinline__ half_bits
narrow<half_bits>(double value)
{
    return narrow<half_bits>(__double2float_rn(value));
}

template <>
__device__ __forceinline__ bfloat16_bits
narrow<bfloat16_bits>(float value)
{
    bfloat16_bits result = {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
    return result;
}

template <>
__device__ __forceinline__ bfloat16_bits
narrow<bfloat16_bits>(double value)
{
    return narrow<bfloat16_bits>(__double2float_rn(value));
}

/* The value as the type T holds it, ready for the next operation. */
template <typename T>
__device__ __forceinline__ wide<T>
rounded(wide<T> value)
{
    return widen(narrow<T>(value));
}

/* One rounding each, never contracted. */
__device__ __forceinline__ float
multiply(float a, float b)
{
    return __fmul_rn(a, b);
}

__device__ __forceinline__ double
multiply(double a, double b)
{
    return __dmul_rn(a, b);
}

__device__ __forceinline__ float
add(float a, float b)
{
    return __fadd_rn(a, b);
}

__device__ __forceinline__ double
add(double a, double b)
{
    return __dadd_rn(a, b);
}

__device__ __forceinline__ float
divide(float a, float b)
{
    return __fdiv_rn(a, b);
}

__device__ __forceinline__ double
divide(double a, double b)
{
    return __ddiv_rn(a, b);
}

__device__ __forceinline__ float
square_root(float value)
{
    return __fsqrt_rn(value);
}

__device__ __forceinline__ double
square_root(double value)
{
    return __dsqrt_rn(value);
}

/* Elements that travel in one access of 4 to 16 bytes; kept as words, so that 16-bit elements do
 * not take a register each. */
template <typename T, int count> struct alignas(sizeof(T) * count) packed {
    static constexpr int words = (int)sizeof(T) * count / 4;
    uint32_t word[words];
};

__device__ __forceinline__ float
unpack(const uint32_t *word, int index, float)
{
    return __uint_as_float(word[index]);
}

__device__ __forceinline__ double
unpack(const uint32_t *word, int index, double)
{
    return __hiloint2double((int)word[index * 2 + 1], (int)word[index * 2]);
}

template <typename T>
__device__ __forceinline__ T
unpack(const uint32_t *word, int index, T)
{
    T value = {(uint16_t)(word[index / 2] >> 16 * (index % 2))};
    return value;
}

/* Elements must be packed in ascending order. */
__device__ __forceinline__ void
pack(uint32_t *word, int index, float value)
{
    word[index] = __float_as_uint(value);
}

__device__ __forceinline__ void
pack(uint32_t *word, int index, double value)
{
    word[index * 2] = (uint32_t)__double2loint(value);
    word[index * 2 + 1] = (uint32_t)__double2hiint(value);
}

template <typename T>
__device__ __forceinline__ void
pack(uint32_t *word, int index, T value)
{
    uint32_t low = index % 2 == 0 ? 0 : word[index / 2];
    word[index / 2] = low | (uint32_t)value.bits << 16 * (index % 2);
}

template <typename T, int count>
__device__ __forceinline__ bool
is_packed(const T *data)
{
    return (uintptr_t)data % (sizeof(T) * count) == 0;
}

template <typename T, int count>
__device__ __forceinline__ packed<T, count>
load_packed(const T *data, int64_t index)
{
    return reinterpret_cast<const packed<T, count> *>(data)[index];
}

template <typename T, int count>
__device__ __forceinline__ void
store_packed(T *data, int64_t index, const packed<T, count> &value)
{
    reinterpret_cast<packed<T, count> *>(data)[index] = value;
}

__host__ __device__ constexpr int
larger(int a, int b)
{
    return a > b ? a : b;
}

/* A table with room for `room` items, as kernels.h describes it. */
template <typename Entry, int room> struct table_of {
    uint32_t count;
    uint32_t chunks;
    uint32_t first_chunk[room + 1];
    Entry entries[room];

    static constexpr int items_at = Y5_TABLE_ITEMS_AT(room);
};
template <typename Entry>
using few_items = table_of<Entry, Y5_TABLE_ROOM(few_bytes, sizeof(Entry))>;
template <typename Entry>
using many_items = table_of<Entry, Y5_TABLE_ROOM(many_bytes, sizeof(Entry))>;

/* The item that holds a chunk below table.chunks: the last one that starts at it or before. */
template <typename Table>
__device__ __forceinline__ uint32_t
item_of(const Table &table, uint32_t chunk)
{
    uint32_t low = 0;
    uint32_t high = table.count - 1;
    while (low < high) {
        uint32_t middle = (low + high + 1) / 2;
        if (table.first_chunk[middle] <= chunk) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

/* Calls body(item, chunk of the item) for each chunk of this block's share, in order, all threads
 * of the block alike. Shares are contiguous, so that one search and one flush per item suffice. */
template <typename Table, typename Body>
__device__ __forceinline__ void
for_each_chunk(const Table &table, Body body)
{
    static_assert(offsetof(Table, entries) == Table::items_at, "the launchers' layout");
    uint32_t begin = (uint32_t)((uint64_t)table.chunks * blockIdx.x / gridDim.x);
    uint32_t end = (uint32_t)((uint64_t)table.chunks * (blockIdx.x + 1) / gridDim.x);
    if (begin >= end) {
        return;
    }
    uint32_t item = item_of(table, begin);
#pragma unroll 1
    for (uint32_t chunk = begin; chunk < end; chunk++) {
        while (chunk >= table.first_chunk[item + 1]) {
            item++;
        }
        body(item, chunk - table.first_chunk[item]);
    }
}

/* The sum over all threads of the block, in thread 0; `partial` is shared memory. */
__device__ __forceinline__ uint32_t
block_sum(uint32_t value, uint32_t partial[block_warps])
{
    for (int step = warp_threads / 2; step > 0; step /= 2) {
        value += __shfl_xor_sync(0xffffffffU, value, step);
    }
    if (threadIdx.x % warp_threads == 0) {
        partial[threadIdx.x / warp_threads] = value;
    }
    __syncthreads();
    uint32_t sum = 0;
    if (threadIdx.x == 0) {
        for (int warp = 0; warp < block_warps; warp++) {
            sum += partial[warp];
        }
    }
    __syncthreads(); /* `partial` may be written again */
    return sum;
}

} // namespace y5

#endif
