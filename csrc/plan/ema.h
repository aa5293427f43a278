/* The plan of one EMA update. */
#ifndef Y5_PLAN_EMA_H
#define Y5_PLAN_EMA_H

#include "plan/plan.h"

/* Zero-initialise; y5_ema_plan_close on every path. */
typedef struct {
    double decay;
    bool half_scalars_stay_float32; /* 16-bit arithmetic as in torch 2.1 and later */
    bool in_order; /* some memory is written twice: no two pairs may run side by side */
    y5_ema_pair *items;
    const y5_ema_layout **layouts; /* of items on the CPU that need one, else NULL */
    int64_t count;
    int64_t bytes;
    const y5_tensor *average; /* of the pair whose source comes next */
} y5_ema_plan;

/* Takes memory of so many bytes, the caller's, as `items` and the room for so many pairs.
 * Y5_NO_MEMORY for NULL. */
size_t y5_ema_plan_bytes(int64_t pairs);
y5_status y5_ema_plan_open(y5_ema_plan *self, int64_t pairs, void *memory);

/* For tensors in pairs: an average, which is skipped where it is not floating, and its source. */
y5_plan y5_ema_plan_steps(y5_ema_plan *self);

void y5_ema_plan_close(y5_ema_plan *self);

#endif
