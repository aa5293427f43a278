/* The plans that count zeros: of many tensors, of one, and of counts on a GPU. */
#ifndef Y5_PLAN_SPARSITY_H
#define Y5_PLAN_SPARSITY_H

#include "plan/plan.h"

/* Groups of tensors. */
enum { Y5_COUNTED = 1, Y5_COUNTS = 2 };

/* Zero-initialise. */
typedef struct {
    y5_elements *items;
    _Atomic int64_t *found; /* zeros of each; on the CPU only */
    int64_t room;
    int64_t count;
    int64_t elements; /* of all */
    int64_t bytes;
    int64_t *zeros;      /* device memory of `zeros_count` numbers; on a GPU only */
    int64_t zeros_count; /* 1, or one for each tensor */
} y5_sparsity_plan;

/* Takes memory of so many bytes, the caller's, as `items` and the room for so many tensors.
 * Y5_NO_MEMORY for NULL. */
size_t y5_sparsity_plan_bytes(int64_t tensors);
y5_status y5_sparsity_plan_open(y5_sparsity_plan *self, int64_t tensors, void *memory);

/* For dense tensors of any type; behind them, on a GPU, the memory for the counts. */
y5_plan y5_sparsity_plan_steps(y5_sparsity_plan *self);

/* One tensor of any strides on the CPU. */
typedef struct {
    y5_tensor tensor;
    int64_t zeros; /* result */
} y5_count_plan;

y5_plan y5_count_plan_steps(y5_count_plan *self);

/* The counts of a GPU, int64, and the number they are added up in. */
typedef struct {
    y5_tensor tensors[2];
} y5_sum_plan;

y5_plan y5_sum_plan_steps(y5_sum_plan *self);

#endif
