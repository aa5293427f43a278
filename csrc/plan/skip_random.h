/* The plan that copies the bytes of a generator's state out of a tensor or into it. */
#ifndef Y5_PLAN_SKIP_RANDOM_H
#define Y5_PLAN_SKIP_RANDOM_H

#include "plan/plan.h"

/* Zero-initialise. One of `out` and `in` is set; both have `count` bytes. */
typedef struct {
    void *out;
    const void *in;
    int64_t count;
    void *data;
} y5_skip_random_plan;

/* For one tensor, a vector of just so many bytes; Y5_UNSUPPORTED for any other. */
y5_plan y5_skip_random_plan_steps(y5_skip_random_plan *self);

#endif
