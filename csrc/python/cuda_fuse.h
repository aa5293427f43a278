/* Fusing on a CUDA device: tensors of convolutions and batch norms as the library's list. Knows no
 * modules; who calls has looked them up and made the results. */
#ifndef Y5_CUDA_FUSE_H
#define Y5_CUDA_FUSE_H

#include "python/place.h"
#include "python/tensors.h"

/* Zero-initialise; release with y5_cuda_fusion_free on every path. */
typedef struct {
    y5_tensors tensors;
    y5_cuda_fuse_pair *items;
    int64_t count;
    y5_place place;
    int32_t *nonfinite; /* device memory of `count` numbers */
} y5_cuda_fusion;

/* Borrows all tensors of the list `pairs`: tuples of the convolution's weight and bias (or None),
 * the batch norm's weight, bias, mean and variance, the fused weight and bias, and epsilon; and
 * `nonfinite`, int32 and one for each pair. Y5_UNSUPPORTED for inputs that torch must fuse. */
y5_status y5_cuda_fusion_collect(const y5_state *state, PyObject *pairs, PyObject *nonfinite,
                                 y5_cuda_fusion *fusion, y5_error *error);

/* Launches what was collected. */
y5_status y5_launch_fuse(const y5_state *state, const y5_cuda_fusion *fusion, y5_error *error);

void y5_cuda_fusion_free(y5_cuda_fusion *fusion);

#endif
