/* The C++ library's selection, for C. */
#ifndef NTH_ELEMENT_H
#define NTH_ELEMENT_H

#include "prune_oracle.h"

#ifdef __cplusplus
extern "C"
#endif
    /* Moves the `front` smallest by magnitude, NaN being the largest, in front of the others. */
    void
    move_smallest_to_front(ranked *elements, int64_t front, int64_t count);

#endif
