/* The plan of one resize. */
#ifndef Y5_PLAN_SCALE_IMG_H
#define Y5_PLAN_SCALE_IMG_H

#include "plan/plan.h"

/* Zero-initialise. */
typedef struct {
    bool writes;     /* the image is followed by the output */
    int64_t size[2]; /* height and width before padding */
    int32_t variant;
    y5_tensor image;
    y5_tensor output;
    y5_scale_img job; /* on the CPU */
} y5_scale_plan;

y5_plan y5_scale_plan_steps(y5_scale_plan *self);

#endif
