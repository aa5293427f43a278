/* Detection of instruction levels. The compiler's cpu-supports builtin also asks the operating
 * system whether it saves the registers (XGETBV); F16C has no builtin name in clang 14, so CPUID.
 */
#include "core/levels.h"

#include <string.h>

#if Y5_X86
#include <cpuid.h>
#endif

static const char *const level_names[Y5_LEVEL_COUNT] = {"portable", "avx2", "avx512"};

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
    return level == Y5_LEVEL_PORTABLE || Y5_X86;
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
    return level == Y5_LEVEL_PORTABLE;
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

bool
y5_flushes_subnormals(void)
{
#if Y5_X86
    /* MXCSR bits 15 (flush to zero) and 6 (denormals are zero). */
    return (_mm_getcsr() & 0x8040U) != 0;
#else
    return false;
#endif
}
