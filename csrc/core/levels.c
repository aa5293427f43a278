/* Detection of instruction levels. The compiler's cpu-supports builtin also asks the operating
 * system whether it saves the registers (XGETBV); F16C has no builtin name in clang 14, so CPUID.
 */
#include "core/levels.h"

#include <string.h>

#if Y5_X86
#include <cpuid.h>
#endif

static const char *const level_names[Y5_LEVEL_COUNT] = {"portable", "neon", "avx2", "avx512"};

const char *
y5_level_name(y5_level level)
{
    return level_names[level];
}

y5_level
y5_level_by_name(const char *name)
{
    for (y5_level level = 0; level < Y5_LEVEL_COUNT; level++) {
        if (strcmp(name, level_names[level]) == 0) {
            return level;
        }
    }
    return -1;
}

bool
y5_level_compiled(y5_level level)
{
    switch (level) {
    case Y5_LEVEL_PORTABLE:
        return true;
    case Y5_LEVEL_NEON:
        return Y5_ARM;
    default:
        return Y5_X86;
    }
}

#if Y5_X86
static bool
has_f16c(void)
{
    unsigned int a = 0;
    unsigned int b = 0;
    unsigned int c = 0;
    unsigned int d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & (1U << 29)) != 0;
}

static bool
runs_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool
runs_avx512(void)
{
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

bool
y5_level_runs(y5_level level)
{
#if Y5_X86
    if (level == Y5_LEVEL_AVX2) {
        return runs_avx2();
    }
    if (level == Y5_LEVEL_AVX512) {
        return runs_avx512();
    }
#endif
    return level == Y5_LEVEL_PORTABLE || (level == Y5_LEVEL_NEON && Y5_ARM);
}

y5_level
y5_level_best(void)
{
    y5_level best = Y5_LEVEL_PORTABLE;
    for (y5_level level = 0; level < Y5_LEVEL_COUNT; level++) {
        best = y5_level_runs(level) ? level : best;
    }
    return best;
}

#if Y5_X86
/* MXCSR: flush to zero, rounding, denormals are zero. The rest are exceptions and their masks. */
#define STATE_BITS (0x8040U | 0x6000U)

static uint64_t
read_register(void)
{
    return _mm_getcsr();
}

static void
write_register(uint64_t value)
{
    _mm_setcsr((unsigned int)value);
}
#elif Y5_ARM
/* FPCR: flush to zero, and the newer one for operands alone; with them the other format of float16,
 * default NaN, rounding, flushing float16, and newer ways to treat NaN. */
#define STATE_BITS (0x01000001U | 0x06c80006U)

static uint64_t
read_register(void)
{
    uint64_t value;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
}

static void
write_register(uint64_t value)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(value));
}
#else
#define STATE_BITS 0U

static uint64_t
read_register(void)
{
    return 0;
}

static void
write_register(uint64_t value)
{
    (void)value;
}
#endif

y5_float_state
y5_float_state_get(void)
{
    return read_register() & STATE_BITS;
}

y5_float_state
y5_float_state_swap(y5_float_state state)
{
    uint64_t whole = read_register();
    y5_float_state own = whole & STATE_BITS;
    if (own != state) { /* writing takes far longer than reading */
        write_register((whole ^ own) | state);
    }
    return own;
}
