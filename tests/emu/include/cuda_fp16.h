/* Stands in for CUDA's header of this name: float16 by the core's own conversions. */
#ifndef Y5_EMU_CUDA_FP16_H
#define Y5_EMU_CUDA_FP16_H

#include "core/half.h"

struct __half {
    uint16_t bits;
};

static inline __half
__ushort_as_half(uint16_t bits)
{
    return {bits};
}

static inline uint16_t
__half_as_ushort(__half value)
{
    return value.bits;
}

static inline float
__half2float(__half value)
{
    return y5_half_to_float(value.bits);
}

static inline __half
__float2half_rn(float value)
{
    return {y5_float_to_half(value)};
}

#endif
