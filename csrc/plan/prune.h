/* The plan of one prune call. */
#ifndef Y5_PLAN_PRUNE_H
#define Y5_PLAN_PRUNE_H

#include "plan/plan.h"

/* Zero-initialise; release with y5_prune_plan_free on every path. */
typedef struct {
    bool writes;     /* each weight is followed by the tensor that takes the result */
    bool like_torch; /* torch.topk's choice among equally small weights */
    y5_prune_layer *items;
    int64_t *wanted; /* numbers of weights to prune, set by the caller; -1 for none that is valid */
    int64_t room;
    int64_t count;
    int64_t bytes;
    void *workspace; /* device memory of `workspace_bytes`; on a GPU only */
    int64_t workspace_bytes;
    int64_t needed_bytes; /* of workspace, by the last look on a GPU */
} y5_prune_plan;

/* Room for so many layers; false without memory. */
bool y5_prune_plan_open(y5_prune_plan *self, int64_t layers);

/* For the layers' tensors; behind them, on a GPU, the workspace. */
y5_plan y5_prune_plan_steps(y5_prune_plan *self);

void y5_prune_plan_free(y5_prune_plan *self);

#endif
