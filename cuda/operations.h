/* The functions of y5_cuda_api, as y5_cuda.h describes them. */
#ifndef Y5_OPERATIONS_H
#define Y5_OPERATIONS_H

#include "launch.h"

y5_cuda_status y5_cuda_ema_update(const y5_cuda_where *where, const y5_ema_pair *pairs,
                                  int64_t count, double decay, y5_cuda_error *error);
y5_cuda_status y5_cuda_sparsity_count(const y5_cuda_where *where, const y5_elements *items,
                                      int64_t count, int64_t *zeros, int64_t zeros_count,
                                      y5_cuda_error *error);
y5_cuda_status y5_cuda_sparsity_sum(const y5_cuda_where *where, const int64_t *zeros, int64_t count,
                                    int32_t dtype, void *sum, y5_cuda_error *error);
y5_cuda_status y5_cuda_fuse(const y5_cuda_where *where, const y5_fuse_pair *pairs, int64_t count,
                            int32_t *doubtful, y5_cuda_error *error);
int64_t y5_cuda_prune_workspace_bytes(const y5_prune_layer *layers, int64_t count);
y5_cuda_status y5_cuda_prune(const y5_cuda_where *where, const y5_prune_layer *layers,
                             int64_t count, void *workspace, int64_t workspace_bytes,
                             y5_cuda_error *error);
y5_cuda_status y5_cuda_scale_img(const y5_cuda_where *where, const y5_scale_img *job,
                                 y5_cuda_error *error);

#endif
