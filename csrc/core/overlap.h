/* Finds out whether memory that is written overlaps memory that is read or written elsewhere. */
#ifndef Y5_OVERLAP_H
#define Y5_OVERLAP_H

#include <stdbool.h>
#include <stdint.h>

/* Addresses begin ... end - 1 that one operand touches; empty where both are equal. */
typedef struct {
    uintptr_t begin;
    uintptr_t end;
    bool written;
} y5_range;

typedef enum {
    Y5_APART,         /* written memory is touched by nobody else */
    Y5_WRITTEN_TWICE, /* some memory is written by two operands, none is also read */
    Y5_READ_WRITTEN,  /* some memory is read by one operand and written by another */
} y5_overlap;

/* Sorts `ranges` by address (with `scratch` of the same length) and compares neighbours: linear
 * time, because every EMA update asks this of more than a thousand ranges. */
y5_overlap y5_find_overlap(y5_range *ranges, y5_range *scratch, int64_t count);

#endif
