/* float16 and bfloat16 to and from float32, one element at a time, as IEEE 754 rounds.
 * NaN keeps its sign and becomes quiet, as the F16C instructions and torch do. The emulated GPU
 * converts by these too; a real one has instructions of its own (cuda/device.cuh). */
#ifndef Y5_HALF_H
#define Y5_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t
y5_float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float
y5_float_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline float
y5_bfloat16_to_float(uint16_t bits)
{
    return y5_float_from_bits((uint32_t)bits << 16);
}

/* Round to nearest even. Every NaN becomes 0x7fc0, as c10::BFloat16 has it. */
static inline uint16_t
y5_float_to_bfloat16(float value)
{
    uint32_t bits = y5_float_bits(value);
    uint32_t rounded = bits + 0x7fffU + ((bits >> 16) & 1U);
    return (uint16_t)((bits & 0x7fffffffU) > 0x7f800000U ? 0x7fc0U : rounded >> 16);
}

static inline float
y5_half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000U) << 16;
    uint32_t magnitude = half & 0x7fffU;
    if (magnitude >= 0x7c00U) { /* infinity; NaN, made quiet */
        uint32_t quiet = magnitude > 0x7c00U ? 0x00400000U : 0U;
        return y5_float_from_bits(sign | 0x7f800000U | (magnitude & 0x3ffU) << 13 | quiet);
    }
    if (magnitude < 0x0400U) { /* zero and subnormals: magnitude · 2^-24 is exact */
        float value = (float)magnitude * 0x1p-24F;
        return y5_float_from_bits(sign | y5_float_bits(value));
    }
    return y5_float_from_bits(sign | ((magnitude << 13) + ((127U - 15U) << 23)));
}

/* Round to nearest even, overflow to infinity. */
static inline uint16_t
y5_float_to_half(float value)
{
    uint32_t bits = y5_float_bits(value);
    uint32_t sign = (bits >> 16) & 0x8000U;
    uint32_t magnitude = bits & 0x7fffffffU;
    if (magnitude > 0x7f800000U) {
        return (uint16_t)(sign | 0x7e00U | ((magnitude >> 13) & 0x1ffU));
    }
    if (magnitude >= 0x47800000U) { /* 65536 and above */
        return (uint16_t)(sign | 0x7c00U);
    }
    if (magnitude < 0x38800000U) { /* below the smallest normal 2^-14 */
        /* Adding 0.5 aligns the last place of a half subnormal with that of the float. */
        float aligned = y5_float_from_bits(magnitude) + 0.5F;
        return (uint16_t)(sign | (y5_float_bits(aligned) - 0x3f000000U));
    }
    uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13) & 1U) - ((127U - 15U) << 23);
    return (uint16_t)(sign | (rounded >> 13));
}

#endif
