/* What the operations work on, on the CPU and on a GPU alike: csrc/plan makes lists of these of a
 * call's tensors. Part of the CUDA library's ABI; plain data in C and in C++. Knows neither how an
 * operation computes nor where. */
#ifndef Y5_ITEMS_H
#define Y5_ITEMS_H

#include "core/y5.h"

/* One entry of the average and the value it moves towards, of one shape: both gapless with their
 * elements in one order, if nothing else says otherwise. */
typedef struct {
    void *average;
    const void *source;
    int64_t numel;
    y5_dtype average_dtype; /* below Y5_FLOATING_COUNT */
    y5_dtype source_dtype;  /* likewise */
} y5_ema_pair;

/* The elements of one gapless tensor. */
typedef struct {
    const void *data;
    int64_t numel;
    y5_dtype dtype;
} y5_elements;

/* The bits that are clear in an element that is zero, repeated to 64. Elements of 16 bytes have
 * them twice. */
static inline uint64_t
y5_zero_mask(y5_dtype dtype)
{
    static const uint64_t masks[] = {
        0x7fffffff7fffffffU, /* FLOAT32 */
        0x7fffffffffffffffU, /* FLOAT64 */
        0x7fff7fff7fff7fffU, /* FLOAT16 */
        0x7fff7fff7fff7fffU, /* BFLOAT16 */
        0x7fff7fff7fff7fffU, /* COMPLEX32 */
        0x7fffffff7fffffffU, /* COMPLEX64 */
        0x7fffffffffffffffU, /* COMPLEX128 */
        UINT64_MAX,          /* INT8 */
        UINT64_MAX,          /* INT16 */
        UINT64_MAX,          /* INT32 */
        UINT64_MAX,          /* INT64 */
        0x7f7f7f7f7f7f7f7fU, /* FLOAT8 */
        UINT64_MAX,          /* FLOAT8_FNUZ */
    };
    return masks[dtype];
}

/* One gapless layer and the memory, of the same size and apart from it, that takes the result. */
typedef struct {
    const void *weights;
    void *pruned;
    int64_t numel;
    int64_t count;  /* of weights to prune, 0 <= count <= numel */
    y5_dtype dtype; /* below Y5_FLOATING_COUNT */
    bool ambiguous; /* result, set where true, on the CPU only: more weights than needed are equally
                     * small and the choice among them shows */
} y5_prune_layer;

/* A convolution and the batch norm behind it, all inputs of one type, and the memory, apart from
 * them, for what they become. The vectors have one element for each row of the weight, that is for
 * each output channel; rows lie one after another without gaps, if nothing else says otherwise. */
typedef struct {
    const void *weight;
    const void *bias;  /* NULL: the convolution has none, as good as zeros */
    const void *gamma; /* the batch norm's weight */
    const void *beta;  /* the batch norm's bias */
    const void *mean;
    const void *variance; /* y5_fuse() wants the square roots of variance + epsilon in its place */
    void *fused_weight;
    void *fused_bias;
    double epsilon;
    int64_t rows;         /* at least 1 */
    int64_t columns;      /* at least 1 */
    y5_dtype dtype;       /* of all inputs, below Y5_FLOATING_COUNT */
    y5_dtype fused_dtype; /* of both results */
} y5_fuse_pair;

/* One axis of an image: elements before, elements resized, and elements of the result, which has
 * padding behind them or is cut. */
typedef struct {
    int64_t input;
    int64_t resized;
    int64_t output;
} y5_axis;

/* A bilinear resize, corners not aligned, with 0.447 to the right and below. Planes are images of
 * one channel, one after another, or with `interleaved` above 1 images of that many channels side
 * by side in each pixel. Rows follow each other without gaps. */
typedef struct {
    const void *image;
    void *output; /* apart from the image */
    int64_t planes;
    int64_t interleaved;
    int64_t channels; /* of an image; 1 plane each, or all of them interleaved */
    y5_axis rows;
    y5_axis columns;
    y5_dtype dtype;  /* of both */
    int32_t variant; /* how torch's kernel rounds: Y5_SCALE_VARIANTS on the CPU, and others,
                      * Y5_CUDA_SCALE_VARIANTS, on a GPU */
} y5_scale_img;

#endif
