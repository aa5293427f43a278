/* Stands in for CUDA's header of this name: bfloat16 by the core's own conversions. */
#ifndef Y5_EMU_CUDA_BF16_H
#define Y5_EMU_CUDA_BF16_H

#include "core/half.h"

struct __nv_bfloat16 {
    uint16_t bits;
};

static inline uint16_t
__bfloat16_as_ushort(__nv_bfloat16 value)
{
    return value.bits;
}

static inline __nv_bfloat16
__float2bfloat16_rn(float value)
{
    return {y5_float_to_bfloat16(value)};
}

#endif
