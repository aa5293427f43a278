/* A layer of weights made from the input: shared by the targets of pruning. */
#ifndef FUZZ_LAYER_H
#define FUZZ_LAYER_H

#include "core/items.h"
#include "fuzz.h"

#include <string.h>

/* Bits of element `at`: of the input, again and again; of few values, many, or all; or rising and
 * falling, with which selection algorithms are slow. */
static inline uint64_t
element_bits(const input *from, uint64_t kind, int64_t at, int64_t numel, int64_t width)
{
    uint64_t usual = width == 8 ? 0x3ff0000000000000U : width == 4 ? 0x3f800000U : 0x3c00U;
    uint64_t order = mixed((uint64_t)at);
    uint64_t pipe = (uint64_t)(at < numel / 2 ? at : numel - at);
    uint64_t bits = 0;
    switch (kind % 6) {
    case 0:
        return usual + order % (1 + kind / 6);
    case 1:
        return usual + (order & 0xffff);
    case 2:
        return order;
    case 3:
        return usual + pipe;
    case 4:
        return usual + (uint64_t)(at / (int64_t)(1 + kind / 6));
    default:
        for (int64_t i = 0; i < width && from->left > 0; i++) {
            bits = bits << 8 | from->data[(size_t)(at * width + i) % from->left];
        }
        return bits;
    }
}

/* A layer with memory for its result, starting at any element of an allocation, and a number of
 * weights to prune. */
static inline y5_prune_layer
take_layer(input *from)
{
    static const int64_t most[4] = {40, 300, 1500, 6000};
    y5_prune_layer layer = {.dtype = (y5_dtype)take_between(from, 0, Y5_FLOATING_COUNT - 1)};
    int64_t width = (int64_t)y5_dtype_bytes(layer.dtype);
    layer.numel = take_between(from, 0, take_most(from, most));
    layer.count = take_between(from, 0, layer.numel);
    uint64_t kind = take_bits(from, 1);
    int64_t skipped = take_between(from, 0, 3) * width;
    char *weights = (char *)allocate(skipped + layer.numel * width) + skipped;
    for (int64_t i = 0; i < layer.numel; i++) {
        uint64_t bits = element_bits(from, kind, i, layer.numel, width);
        memcpy(weights + i * width, &bits, (size_t)width); /* of a little-endian machine */
    }
    layer.weights = weights;
    layer.pruned = (char *)allocate(skipped + layer.numel * width) + skipped;
    return layer;
}

#endif
