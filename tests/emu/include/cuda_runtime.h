/* Stands in for CUDA's header of this name, so that kernels compile as host C++: qualifiers and the
 * few intrinsics they use. */
#ifndef Y5_EMU_CUDA_RUNTIME_H
#define Y5_EMU_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __host__
#define __device__
#define __global__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)

/* Blocks that take turns have shared memory each; of plain statics there is one for all, but the
 * sanitizers watch these only. */
#ifdef Y5_EMU_SIDE_BY_SIDE
#define Y5_EMU_OF_BLOCK thread_local
#else
#define Y5_EMU_OF_BLOCK
#endif
#define __shared__ static Y5_EMU_OF_BLOCK

struct dim3 {
    unsigned int x, y, z;
    dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

/* Of the running thread of the running block. */
extern dim3 threadIdx;
extern dim3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

namespace y5_emulator {

/* Each thread waits until all of the block, or of its warp, have come as far. */
void wait_for_block();
void wait_for_warp();

/* What this thread has stored is seen by other blocks, and what they showed by this one. */
void pass_fence();

/* Around an atomic. */
void begin_atomic(const void *address, size_t bytes);
void end_atomic(const void *address, size_t bytes);

/* A value of each lane of each warp, written by the lane itself. */
extern Y5_EMU_OF_BLOCK unsigned long long lane_values[32][32];

} // namespace y5_emulator

static inline void
__syncthreads(void)
{
    y5_emulator::wait_for_block();
}

static inline void
__threadfence(void)
{
    y5_emulator::pass_fence();
}

/* All lanes give a value and take that of lane `source`; the lane's own where there is none. */
template <typename T>
static inline T
exchange_lanes(T value, int source)
{
    unsigned long long *lanes = y5_emulator::lane_values[threadIdx.x / 32];
    lanes[threadIdx.x % 32] = (unsigned long long)value;
    y5_emulator::wait_for_warp();
    T result = source >= 0 && source < 32 ? (T)lanes[source] : value;
    y5_emulator::wait_for_warp();
    return result;
}

template <typename T>
static inline T
__shfl_xor_sync(unsigned int, T value, int mask)
{
    return exchange_lanes(value, (int)(threadIdx.x % 32) ^ mask);
}

template <typename T>
static inline T
__shfl_up_sync(unsigned int, T value, int step)
{
    return exchange_lanes(value, (int)(threadIdx.x % 32) - step);
}

static inline unsigned int
__ballot_sync(unsigned int, bool predicate)
{
    unsigned long long *lanes = y5_emulator::lane_values[threadIdx.x / 32];
    lanes[threadIdx.x % 32] = predicate;
    y5_emulator::wait_for_warp();
    unsigned int mask = 0;
    for (int lane = 0; lane < 32; lane++) {
        mask |= (unsigned int)(lanes[lane] != 0) << lane;
    }
    y5_emulator::wait_for_warp();
    return mask;
}

template <typename T, typename V>
static inline T
atomicAdd(T *address, V value)
{
    y5_emulator::begin_atomic(address, sizeof(T));
    T before = *address;
    *address = (T)(before + (T)value);
    y5_emulator::end_atomic(address, sizeof(T));
    return before;
}

template <typename T>
static inline T
__ldcg(const T *address)
{
    return *address;
}

/* A number with the bits of another one. */
#define Y5_EMU_BITS(name, to, from)                                                                \
    static inline to name(from value)                                                              \
    {                                                                                              \
        to bits;                                                                                   \
        memcpy(&bits, &value, sizeof(bits));                                                       \
        return bits;                                                                               \
    }
Y5_EMU_BITS(__uint_as_float, float, unsigned int)
Y5_EMU_BITS(__float_as_uint, unsigned int, float)
Y5_EMU_BITS(__double_as_longlong, long long, double)
#undef Y5_EMU_BITS

static inline double
__hiloint2double(int high, int low)
{
    unsigned long long bits = (unsigned long long)(unsigned int)high << 32 | (unsigned int)low;
    double value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* -ffp-contract=off makes plain operators what these promise. */
#define Y5_EMU_OPERATOR(name, type, expression)                                                    \
    static inline type name(type a, type b)                                                        \
    {                                                                                              \
        return expression;                                                                         \
    }
Y5_EMU_OPERATOR(__fmul_rn, float, a *b)
Y5_EMU_OPERATOR(__fadd_rn, float, a + b)
Y5_EMU_OPERATOR(__fdiv_rn, float, a / b)
Y5_EMU_OPERATOR(__dmul_rn, double, a *b)
Y5_EMU_OPERATOR(__dadd_rn, double, a + b)
Y5_EMU_OPERATOR(__ddiv_rn, double, a / b)
#undef Y5_EMU_OPERATOR

#define Y5_EMU_FUNCTION(name, result, argument, expression)                                        \
    static inline result name(argument a)                                                          \
    {                                                                                              \
        return expression;                                                                         \
    }
Y5_EMU_FUNCTION(__popc, int, unsigned int, __builtin_popcount(a))
Y5_EMU_FUNCTION(__double2loint, int, double, (int)(unsigned int)__double_as_longlong(a))
Y5_EMU_FUNCTION(__double2hiint, int, double, (int)(unsigned int)(__double_as_longlong(a) >> 32))
Y5_EMU_FUNCTION(__fsqrt_rn, float, float, sqrtf(a))
Y5_EMU_FUNCTION(__dsqrt_rn, double, double, sqrt(a))
Y5_EMU_FUNCTION(__double2float_rn, float, double, (float)a)
#undef Y5_EMU_FUNCTION

#endif
