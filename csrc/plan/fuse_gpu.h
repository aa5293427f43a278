/* The plan of a fuse call on a GPU. */
#ifndef Y5_PLAN_FUSE_GPU_H
#define Y5_PLAN_FUSE_GPU_H

#include "plan/fuse.h"

/* Zero-initialise; release with y5_gpu_fuse_plan_free on every path. */
typedef struct {
    y5_fuse_pair *items; /* epsilon is set by the caller */
    bool *has_bias;      /* set by the caller */
    uint8_t *roles;      /* of the call's tensors, one after another; set by the caller */
    int64_t count;
    int64_t pair; /* the one that is taken */
    y5_tensor tensors[Y5_FUSE_GPU_ROLES];
    int32_t *doubtful; /* device memory of `count` numbers */
} y5_gpu_fuse_plan;

/* Room for so many pairs; false without memory. */
bool y5_gpu_fuse_plan_open(y5_gpu_fuse_plan *self, int64_t pairs);

/* For the tensors of all pairs, and behind them one for the flags. */
y5_plan y5_gpu_fuse_plan_steps(y5_gpu_fuse_plan *self);

void y5_gpu_fuse_plan_free(y5_gpu_fuse_plan *self);

#endif
