/* core/half.h against a conversion of its own: every 16-bit pattern, every tie between neighbours,
 * random float32 values. */
#include "core/half.h"
#include "support.h"
#include "test_core.h"

#include <math.h>

typedef struct {
    const small_float *type;
    float (*widen)(uint16_t bits);
    uint16_t (*narrow)(float value);
} conversion;

/* Narrowing a float32 NaN: float16 keeps the sign and the upper payload, made quiet; bfloat16 has
 * one NaN. */
static uint16_t
narrow_nan(uint32_t bits, const small_float *type)
{
    uint32_t kept = (bits >> 16 & 0x8000U) | 0x7e00U | (bits >> 13 & 0x3ffU);
    return type == &float16 ? (uint16_t)kept : 0x7fc0U;
}

static void
check_narrow(const conversion *by, float value)
{
    uint32_t bits = y5_float_bits(value);
    uint16_t expected =
        isnan(value) ? narrow_nan(bits, by->type) : small_float_bits((double)value, by->type);
    uint16_t got = by->narrow(value);
    CHECK(got == expected, "%a (0x%08x) became 0x%04x, not 0x%04x", (double)value, bits, got,
          expected);
}

static void
check_every_pattern(const conversion *by)
{
    uint32_t infinity = by->type == &float16 ? 0x7c00U : 0x7f80U;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        float value = by->widen((uint16_t)bits);
        bool is_nan = (bits & 0x7fffU) > infinity;
        CHECK((bool)isnan(value) == is_nan, "0x%04x became %a", bits, (double)value);
        if (!is_nan) {
            double expected = small_float_value((uint16_t)bits, by->type);
            CHECK((double)value == expected && !signbit(value) == !signbit(expected),
                  "0x%04x became %a, not %a", bits, (double)value, expected);
            CHECK(by->narrow(value) == bits, "0x%04x came back as 0x%04x", bits, by->narrow(value));
        } else if (by->type == &float16) {
            uint32_t quiet = (bits & 0x8000U) << 16 | 0x7fc00000U | (bits & 0x3ffU) << 13;
            CHECK(y5_float_bits(value) == quiet, "0x%04x became 0x%08x", bits,
                  y5_float_bits(value));
        } else {
            CHECK(y5_float_bits(value) == bits << 16, "0x%04x", bits);
        }
    }
}

/* Half way between two neighbours, and one float32 to either side: for all neighbours, the last
 * being the greatest finite number and what would follow it. */
static void
check_every_tie(const conversion *by)
{
    uint32_t infinity = by->type == &float16 ? 0x7c00U : 0x7f80U;
    for (uint32_t bits = 0; bits < infinity; bits++) {
        double low = small_float_value((uint16_t)bits, by->type);
        double high = small_float_value((uint16_t)(bits + 1), by->type);
        high = isinf(high) ? ldexp(1.0, by->type->bias + 1) : high;
        float middle = (float)((low + high) / 2);
        uint32_t even = bits + (bits & 1U);
        for (int sign = 0; sign < 2; sign++) {
            float tie = sign ? -middle : middle;
            uint32_t top = sign ? 0x8000U : 0;
            CHECK(by->narrow(tie) == (top | even), "tie above 0x%04x", bits);
            CHECK(by->narrow(nextafterf(tie, 0)) == (top | bits), "below the tie above 0x%04x",
                  bits);
            CHECK(by->narrow(nextafterf(tie, sign ? -INFINITY : INFINITY)) == (top | (bits + 1)),
                  "behind the tie above 0x%04x", bits);
        }
    }
}

static void
check_boundaries(const conversion *by)
{
    static const uint32_t patterns[] = {
        0x00000000, 0x00000001, 0x007fffff, 0x00800000, /* zero, subnormals, least normal */
        0x33000000, 0x33000001, 0x33800000, 0x387fc000, /* around float16's subnormals */
        0x387fe000, 0x387fffff, 0x38800000, 0x38800001, /* 2^-14 */
        0x477fe000, 0x477fefff, 0x477ff000, 0x477fffff, /* 65504, 65520 */
        0x47800000, 0x7f7f0000, 0x7f7f7fff, 0x7f7f8000, /* 65536; bfloat16's greatest */
        0x7f7fffff, 0x7f800000, 0x7f800001, 0x7f801fff, /* greatest, infinity, signalling NaN */
        0x7fbfffff, 0x7fc00000, 0x7fffffff, 0x7fffe000, /* NaN whose sum with 0x7fff carries */
    };
    for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
        check_narrow(by, y5_float_from_bits(patterns[i]));
        check_narrow(by, y5_float_from_bits(patterns[i] | 0x80000000U));
    }
    for (int64_t i = 0; i < (brief ? 20000 : 1000000); i++) {
        check_narrow(by, y5_float_from_bits((uint32_t)random_bits()));
    }
}

void
test_half(void)
{
    static const conversion conversions[] = {
        {&float16, y5_half_to_float, y5_float_to_half},
        {&bfloat16, y5_bfloat16_to_float, y5_float_to_bfloat16},
    };
    for (int i = 0; i < 2; i++) {
        check_every_pattern(&conversions[i]);
        check_every_tie(&conversions[i]);
        check_boundaries(&conversions[i]);
    }
}
