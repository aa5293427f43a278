/* Where one call runs: on the CPU, or on the one CUDA device on which all its tensors live. */
#ifndef Y5_PLACE_H
#define Y5_PLACE_H

#include "core/y5.h"
#include "python/state.h"
#include "y5_cuda.h"

/* Zero-initialise. Nothing added means the CPU. */
typedef struct {
    bool decided;
    y5_device device;
    int32_t index;           /* of the CUDA device */
    const y5_cuda_api *cuda; /* set by y5_place_open: NULL on the CPU */
} y5_place;

/* The first tensor decides; Y5_UNSUPPORTED for one that lives elsewhere than those before. */
y5_status y5_place_add(y5_place *place, const y5_tensor *tensor, y5_error *error);

/* Finds what computes there: Y5_UNSUPPORTED for a CUDA device without a library that runs on it. */
y5_status y5_place_open(const y5_state *state, y5_place *place, y5_error *error);

/* A new tensor of so many bytes on the CUDA device, from torch's allocator and for its current
 * stream: it may be released once what uses it was launched. Runs Python code. */
y5_status y5_place_allocate(const y5_state *state, const y5_place *place, int64_t bytes,
                            PyObject **memory);

#endif
