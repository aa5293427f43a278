/* What the fuzz targets share: numbers taken from the input, and a pool that runs its parts one
 * after another on the calling thread. Knows no operation. */
#ifndef FUZZ_H
#define FUZZ_H

#include "core/levels.h"
#include "support.h"

#include <stddef.h>
#include <stdint.h>

/* What is left of the input. Behind its end come zeros. */
typedef struct {
    const uint8_t *data;
    size_t left;
} input;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline uint64_t
take_bits(input *from, int32_t bytes)
{
    uint64_t bits = 0;
    for (int32_t i = 0; i < bytes && from->left > 0; i++) {
        bits |= (uint64_t)*from->data++ << 8 * i;
        from->left--;
    }
    return bits;
}

/* In low ... high, both included. Takes no more bytes than the range needs. */
static inline int64_t
take_between(input *from, int64_t low, int64_t high)
{
    uint64_t last = (uint64_t)high - (uint64_t)low;
    int32_t bytes = 1;
    while (bytes < 8 && last >> 8 * bytes != 0) {
        bytes++;
    }
    uint64_t bits = take_bits(from, bytes);
    return (int64_t)((uint64_t)low + (last == UINT64_MAX ? bits : bits % (last + 1)));
}

/* Mostly small, now and then anything that 64 bits hold. */
static inline int64_t
take_size(input *from)
{
    uint64_t kind = take_bits(from, 1);
    if (kind < 192) {
        return (int64_t)(kind % 12);
    }
    int64_t power = (int64_t)((uint64_t)1 << kind % 64); /* and what lies around it */
    return kind < 240 ? (int64_t)((uint64_t)power + take_bits(from, 1) - 128U)
                      : (int64_t)take_bits(from, 8);
}

/* One of four sizes, the larger the rarer: inputs are worth more than elements. */
static inline int64_t
take_most(input *from, const int64_t sizes[4])
{
    uint64_t kind = take_bits(from, 1);
    return sizes[kind < 160 ? 0 : kind < 240 ? 1 : kind < 254 ? 2 : 3];
}

static inline y5_level
take_level(input *from)
{
    static int32_t best = -1; /* asking a virtual machine's CPU takes longer than most inputs */
    best = best < 0 ? (int32_t)y5_level_best() : best;
    return (y5_level)take_between(from, 0, best);
}

/* A pool for y5_pool.run. */
static inline int32_t
pool_in_turn(int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void *),
             void *context)
{
    for (int64_t at = begin; at < end; at += grain) {
        body(at, end - at < grain ? end : at + grain, context);
    }
    return 0;
}

/* As good as random: a bijection of 64 bits. */
static inline uint64_t
mixed(uint64_t bits)
{
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9U;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebU;
    return bits ^ bits >> 31;
}

#endif
