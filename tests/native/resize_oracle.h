/* What scale_img must compute, output by output from the formula: shared by its test and its fuzz
 * target. Knows nothing of the core but its boundary types and the variants' numbers. */
#ifndef RESIZE_ORACLE_H
#define RESIZE_ORACLE_H

#include "core/y5.h"

/* A batch of images, its result and how the two are related. */
typedef struct {
    int64_t batch;
    int64_t channels;
    int64_t input[2]; /* height, width */
    int64_t resized[2];
    int64_t output[2];
    bool interleaved; /* channels side by side in each pixel */
    int32_t variant;
} image_case;

/* The batch at one of these sizes, in memory. */
y5_tensor image_tensor(const image_case *image, const int64_t size[2], void *data);

/* Ends the program at the first element of the result that differs. */
void check_resized(const image_case *image, const y5_tensor *input, const y5_tensor *output);

#endif
