/* What the core's test programs share: the check macro, random numbers, elements read and written
 * by number, and a thread pool. Knows the core's boundary types only, none of its arithmetic. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include "core/y5.h"

#include <stdio.h>
#include <stdlib.h>

/* Ends the program with the place, the condition and a printf-like sentence. */
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                        \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* True where the program was asked to be brief, as under valgrind. */
extern bool brief;

/* Begins a group's own stream of random numbers, so that no group's depend on what ran before it.
 */
void seed_random(const char *group);

/* True on a simulated CPU, as valgrind's, on which a fault cannot be repaired and gone on from. */
extern bool simulated;

/* One random number after another; the same on every machine. */
uint64_t random_bits(void);

/* Uniform in low ... high, both included. */
int64_t random_between(int64_t low, int64_t high);

/* `bytes` of fresh memory with nothing behind them, so that instrumented runs see an overrun; it is
 * free_all() that frees it, with all that was allocated since the last time. */
void *allocate(int64_t bytes);
void free_all(void);

/* A 16-bit float: 1 sign bit, 15 - fraction_bits exponent bits. */
typedef struct {
    int32_t fraction_bits;
    int32_t bias;
} small_float;

extern const small_float float16;
extern const small_float bfloat16;

/* The number 16 bits stand for, and the bits of the nearest number (ties to even). Plain arithmetic
 * on doubles: shares nothing with core/half.h. */
double small_float_value(uint16_t bits, const small_float *type);
uint16_t small_float_bits(double value, const small_float *type);

/* Element `index` of an array of a floating type, as a double; and rounded to the type. */
double get_element(const void *data, int64_t index, y5_dtype dtype);
void set_element(void *data, int64_t index, y5_dtype dtype, double value);

/* `value` as the type holds it. */
double round_to(double value, y5_dtype dtype);

/* Fills an array of a floating type with random numbers over many binades, a seventh of them
 * special: zeros, subnormals, infinities, NaN. */
void fill(void *data, int64_t count, y5_dtype dtype);

/* True where two elements of a floating type have the same bits, or are both NaN. */
bool same_element(const void *a, const void *b, int64_t index, y5_dtype dtype);

/* Ends the program at the first element that differs; NaN equals NaN. */
#define check_same(...) check_same_at(__FILE__, __LINE__, __VA_ARGS__)
void check_same_at(const char *file, int line, const void *got, const void *expected, int64_t numel,
                   y5_dtype dtype, const char *what);

/* The pool: as many threads as set last, each with one contiguous part of the range. */
void pool_set_threads(int32_t threads);
int64_t pool_calls(void);
int32_t pool_run(int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void *),
                 void *context);

/* A pool that fails before anything ran. */
int32_t pool_refuse(int64_t begin, int64_t end, int64_t grain,
                    void (*body)(int64_t, int64_t, void *), void *context);

/* A tensor of random shape (0 ... max_dims dimensions of low ... high) on no memory, strides 0. */
y5_tensor random_shape(int32_t max_dims, int64_t low, int64_t high);

/* The offset in elements of element `index`, counted in row-major order of the shape. */
int64_t offset_of(const y5_tensor *tensor, int64_t index);

/* Every element's offset in that order, in allocated memory; the lowest and highest of them. */
int64_t *all_offsets(const y5_tensor *tensor, int64_t *lowest, int64_t *highest);

#endif
