/* The hot paths on a CUDA device: lists as the library wants them, torch's stream, one call. What
 * is launched ends after the call has returned. The tensors need to live only until then, as with
 * torch's own operations: its allocator hands memory on in the order of the stream it was taken
 * for, and who computes on another stream tells it so (Tensor.record_stream). The GIL is kept:
 * a launch takes microseconds. Where the driver's queue is full (about 1,000 launches), it takes as
 * long as the GPU needs for the oldest, and other threads wait with it: without the GIL they could
 * replace the memory that is about to be launched on. */
#ifndef Y5_CUDA_CALLS_H
#define Y5_CUDA_CALLS_H

#include "python/collect.h"
#include "python/layers.h"

/* Launches the update of borrowed pairs. */
y5_status y5_launch_ema(const y5_state *state, const y5_pairs *pairs, double decay,
                        y5_error *error);

/* Launches the count of borrowed parameters' zeros, into *zeros: a new tensor of bytes that holds
 * one int64, or with `each` one for every parameter. Borrows the parameters again. */
y5_status y5_launch_count_zeros(const y5_state *state, y5_parameters *parameters, bool each,
                                PyObject **zeros, y5_error *error);

/* Launches the sum of zeros, int64 and side by side, one after the other in the type of `sum`, into
 * its first element. */
y5_status y5_launch_sum_zeros(const y5_state *state, PyObject *zeros, PyObject *sum,
                              y5_error *error);

/* Launches the pruning of the layers that `lists` (weights, pruned, counts) hold. They are
 * collected again once the workspace is there. */
y5_status y5_launch_prune(const y5_state *state, PyObject *const *lists, y5_layers *layers,
                          y5_error *error);

/* Y5_OK for an image that the library resizes, as y5_scale_img_check() for the CPU. */
y5_status y5_cuda_scale_img_check(const y5_tensor *image, y5_error *error);

/* Launches the resize of a checked image into `output`, `resized` being its size in front of
 * padding. Y5_BAD_VALUE for an output that does not fit it. */
y5_status y5_launch_scale_img(const y5_state *state, const y5_place *place, const y5_tensor *image,
                              const y5_tensor *output, const int64_t resized[2], int32_t variant,
                              y5_error *error);

#endif
