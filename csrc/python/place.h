/* Where one call runs: on the CPU, or on the one CUDA device on which all its tensors live. */
#ifndef Y5_PLACE_H
#define Y5_PLACE_H

#include "core/y5.h"
#include "python/state.h"
#include "python/tensor.h"
#include "y5_cuda.h"

/* Zero-initialise. Nothing added means the CPU. */
typedef struct {
    bool decided;
    y5_device device;
    int32_t index;           /* of the CUDA device */
    const y5_cuda_api *cuda; /* set by y5_place_open: NULL on the CPU */
} y5_place;

/* Adds the borrowed tensor of `object`. The first one decides; Y5_UNSUPPORTED for one that lives
 * elsewhere than those before. With the first of a device that was never asked the GIL is released
 * for the question, before which its loan is returned and after which it is borrowed anew. */
y5_status y5_place_add(const y5_state *state, y5_place *place, PyObject *object, y5_tensor *tensor,
                       y5_loan *loan, y5_error *error);

/* Finds what computes there, when all tensors were added: Y5_UNSUPPORTED for a CUDA device without
 * a library that runs on it. Keeps the GIL. */
y5_status y5_place_open(const y5_state *state, y5_place *place, y5_error *error);

/* Y5_UNSUPPORTED where tensors that were borrowed again are elsewhere now. */
y5_status y5_place_stayed(const y5_place *before, const y5_place *now, y5_error *error);

/* A new tensor of so many bytes on the CUDA device, from torch's allocator and for its current
 * stream: it may be released once what uses it was launched. Runs Python code, during which other
 * threads may move the tensors that were borrowed before. */
y5_status y5_place_allocate(const y5_state *state, const y5_place *place, int64_t bytes,
                            PyObject **memory);

#endif
