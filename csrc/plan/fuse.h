/* The plans of a fuse call on the CPU, which has torch take the square roots in between: several
 * looks at the same tensors, with torch's work between them. */
#ifndef Y5_PLAN_FUSE_H
#define Y5_PLAN_FUSE_H

#include "plan/plan.h"

/* The tensors of a pair, in the order in which those of a GPU are given. */
typedef enum {
    Y5_FUSE_WEIGHT,
    Y5_FUSE_BIAS, /* where there is one */
    Y5_FUSE_GAMMA,
    Y5_FUSE_BETA,
    Y5_FUSE_MEAN,
    Y5_FUSE_VARIANCE,
    Y5_FUSED_WEIGHT,
    Y5_FUSED_BIAS,
    Y5_FUSE_GPU_ROLES,
    Y5_FUSE_ROOTS = Y5_FUSE_GPU_ROLES, /* on the CPU, where the fused bias is of another type; else
                                        * it holds the roots for a while */
    Y5_FUSE_ROLES
} y5_fuse_role;

/* The name of a role, for messages. */
const char *y5_fuse_name(y5_fuse_role role);

/* Points the item at a tensor of this role; there is no place for roots. */
void y5_fuse_set(y5_fuse_pair *item, y5_fuse_role role, void *data);

/* The group of a role: which look it belongs to. */
#define Y5_FUSE_GROUP(role) (1U << (role))

/* One tensor's place in the call. */
typedef struct {
    int64_t pair;
    y5_fuse_role role;
} y5_fuse_slot;

/* Zero-initialise; release with y5_fuse_plan_free on every path. */
typedef struct {
    y5_fuse_pair *items;
    y5_tensor *layouts; /* weights; without dimensions where they lie row after row */
    void **roots;       /* where the square roots are kept */
    _Atomic int32_t *doubtful;
    int64_t (*shapes)[4]; /* of the weights, as the convolutions state them; set by the caller */
    y5_fuse_slot *slots;  /* of the call's tensors, one after another; set by the caller */
    int64_t count;        /* of pairs; set by the caller */
    int64_t bytes;
} y5_fuse_plan;

/* Room for so many pairs; false without memory. */
bool y5_fuse_plan_open(y5_fuse_plan *self, int64_t pairs);

/* The first looks, at the weights and at the memory for fused ones: what are their types? */
y5_plan y5_fuse_plan_types(y5_fuse_plan *self, y5_fuse_role role);

/* The next one, at variances and roots: fills the roots with what torch is to take the root of. */
y5_plan y5_fuse_plan_variances(y5_fuse_plan *self);

/* The last, at all tensors, once the roots were taken: fuses. */
y5_plan y5_fuse_plan_steps(y5_fuse_plan *self);

void y5_fuse_plan_free(y5_fuse_plan *self);

#endif
