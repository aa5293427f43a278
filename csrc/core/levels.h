/* Instruction levels: which exist, which this CPU runs, and how one kernel file becomes one set of
 * functions per level. The only file that includes immintrin.h and arm_neon.h; knows no operation.
 *
 * A translation unit that defines Y5_KERNEL_FILE before including this header gets that file
 * compiled once per level, each time inside a target region and with
 *     Y5_LEVEL(name)   the name with the level as suffix
 *     Y5_LEVEL_ID      the level's number, for the few lines that need intrinsics
 * so that the same source yields `name_portable`, `name_avx2`, `name_avx512`, on ARM
 * `name_portable`, `name_neon`. */
#ifndef Y5_LEVELS_H
#define Y5_LEVELS_H

#include <stdbool.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define Y5_X86 1
#include <immintrin.h>
#else
#define Y5_X86 0
#endif

/* aarch64 with the usual order of bytes. */
#if defined(__aarch64__) && defined(__GNUC__) && !defined(__AARCH64EB__)
#define Y5_ARM 1
#include <arm_neon.h>
#else
#define Y5_ARM 0
#endif

/* Numbers, because the preprocessor compares them: those of x86 are the highest. */
#define Y5_LEVEL_PORTABLE 0 /* what the ABI guarantees; compilers make vectors of it, too */
#define Y5_LEVEL_NEON 1     /* what every aarch64 has, by its intrinsics */
#define Y5_LEVEL_AVX2 2     /* AVX2, FMA, F16C */
#define Y5_LEVEL_AVX512 3   /* AVX-512 F, BW, DQ, VL */
#define Y5_LEVEL_COUNT 4

typedef int32_t y5_level;

/* "portable", "neon", "avx2", "avx512". */
const char *y5_level_name(y5_level level);

/* The level of that name, or -1. */
y5_level y5_level_by_name(const char *name);

/* True where this build has the level's code. */
bool y5_level_compiled(y5_level level);

/* True where this build has it and CPU and operating system run it. */
bool y5_level_runs(y5_level level);

/* The highest level that runs. */
y5_level y5_level_best(void);

/* What a thread's processor does besides the instruction itself and changes results: the rounding
 * mode, and whether subnormal numbers are read or written as zeros. One number for all of it: 0
 * for what processes begin with, and where this architecture's is not known here. */
typedef uint64_t y5_float_state;

/* The calling thread's. */
y5_float_state y5_float_state_get(void);

/* Gives the calling thread another one; returns its own. */
y5_float_state y5_float_state_swap(y5_float_state state);

#endif

#ifdef Y5_KERNEL_FILE

/* A function that becomes part of each caller: where it gets constants, the loops in it are made
 * for them. `inline` alone leaves that to the compiler, which then asks in every turn of the loop.
 */
#define Y5_ALWAYS_INLINE static inline __attribute__((always_inline))

#define Y5_JOIN_(name, level) name##_##level
#define Y5_JOIN(name, level) Y5_JOIN_(name, level)
#define Y5_LEVEL(name) Y5_JOIN(name, Y5_SUFFIX)

#define Y5_LEVEL_ID Y5_LEVEL_PORTABLE
#define Y5_SUFFIX portable
#include Y5_KERNEL_FILE
#undef Y5_LEVEL_ID
#undef Y5_SUFFIX

#if Y5_X86

#define Y5_LEVEL_ID Y5_LEVEL_AVX2
#define Y5_SUFFIX avx2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#include Y5_KERNEL_FILE
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#include Y5_KERNEL_FILE
#pragma GCC pop_options
#endif
#undef Y5_LEVEL_ID
#undef Y5_SUFFIX

#define Y5_LEVEL_ID Y5_LEVEL_AVX512
#define Y5_SUFFIX avx512
#if defined(__clang__)
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"))),                   \
    apply_to = function)
#include Y5_KERNEL_FILE
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#include Y5_KERNEL_FILE
#pragma GCC pop_options
#endif
#undef Y5_LEVEL_ID
#undef Y5_SUFFIX

/* One row of a kernel table: every level's function, by level number. */
#define Y5_EACH_LEVEL(name)                                                                        \
    {                                                                                              \
        name##_portable, name##_portable, name##_avx2, name##_avx512                               \
    }
#elif Y5_ARM

#define Y5_LEVEL_ID Y5_LEVEL_NEON
#define Y5_SUFFIX neon
#include Y5_KERNEL_FILE
#undef Y5_LEVEL_ID
#undef Y5_SUFFIX

#define Y5_EACH_LEVEL(name)                                                                        \
    {                                                                                              \
        name##_portable, name##_neon, name##_portable, name##_portable                             \
    }
#else
#define Y5_EACH_LEVEL(name)                                                                        \
    {                                                                                              \
        name##_portable, name##_portable, name##_portable, name##_portable                         \
    }
#endif

#endif
