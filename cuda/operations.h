/* The library's functions before they are exported, one per slot of y5_cuda_api. */
#ifndef Y5_OPERATIONS_H
#define Y5_OPERATIONS_H

#include "y5_cuda.h"

namespace y5 {

extern const char *const architectures;

/* The oldest release of CUDA whose driver runs this library if built with `toolkit`: the runtime
 * wants the driver's major release to be its own, and more than 4 KiB of a kernel's arguments want
 * the driver of 12.1. Numbers like CUDART_VERSION. */
constexpr int
oldest_driver(int toolkit)
{
    return toolkit >= 13000 ? toolkit / 1000 * 1000 : 12010;
}

y5_cuda_status check_device(int32_t device, y5_cuda_error *error);
y5_cuda_status ema_update(const y5_cuda_where *where, const y5_ema_pair *pairs, int64_t count,
                          double decay, y5_cuda_error *error);
y5_cuda_status sparsity_count(const y5_cuda_where *where, const y5_elements *items, int64_t count,
                              int64_t *zeros, int64_t zeros_count, y5_cuda_error *error);
y5_cuda_status sparsity_sum(const y5_cuda_where *where, const int64_t *zeros, int64_t count,
                            int32_t dtype, void *sum, y5_cuda_error *error);
y5_cuda_status fuse(const y5_cuda_where *where, const y5_fuse_pair *pairs, int64_t count,
                    int32_t *doubtful, y5_cuda_error *error);
int64_t prune_workspace_bytes(const y5_prune_layer *layers, int64_t count);
y5_cuda_status prune(const y5_cuda_where *where, const y5_prune_layer *layers, int64_t count,
                     void *workspace, int64_t workspace_bytes, y5_cuda_error *error);
y5_cuda_status scale_img(const y5_cuda_where *where, const y5_scale_img *job, y5_cuda_error *error);

} // namespace y5

#endif
