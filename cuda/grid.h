/* How many blocks a launch has: plain arithmetic, tested alone. Knows no kernel. */
#ifndef Y5_GRID_H
#define Y5_GRID_H

#include <stdint.h>

/* What a grid may have: blocks along x, and along y and z. */
#define Y5_GRID_X_LIMIT INT64_C(0x7fffffff)
#define Y5_GRID_YZ_LIMIT INT64_C(65535)

typedef struct {
    int64_t x;
    int64_t y;
    int64_t z;
} y5_grid;

/* a / b rounded up, for a >= 0 and b > 0, without overflow. */
static inline int64_t
ceil_divide(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

static inline int64_t
smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Blocks for `units` pieces of work of one size: one each, as long as all run at once, which are
 * `resident`. More would only queue, since each takes an equal share of the work. */
static inline y5_grid
y5_grid_for(int64_t units, int64_t resident)
{
    int64_t blocks = smaller(units, smaller(resident, Y5_GRID_X_LIMIT));
    return (y5_grid){blocks > 1 ? blocks : 1, 1, 1};
}

/* A grid over the rows of a plane, elements of a row along x; deep enough in z to fill the device
 * twice where one plane does not, but with at least `planes_per_thread` planes left to each thread.
 */
static inline y5_grid
y5_grid_for_planes(int64_t row_elements, int64_t rows, int64_t planes, int64_t row_threads,
                   int64_t block_rows, int64_t planes_per_thread, int64_t resident)
{
    y5_grid result;
    result.x = smaller(ceil_divide(row_elements, row_threads), Y5_GRID_X_LIMIT);
    result.y = smaller(ceil_divide(rows, block_rows), Y5_GRID_YZ_LIMIT);
    /* Both factors are below 2^31, so that the product stays below 2^47. */
    int64_t depth = ceil_divide(2 * resident, result.x * result.y);
    result.z = smaller(smaller(depth, ceil_divide(planes, planes_per_thread)), Y5_GRID_YZ_LIMIT);
    return result;
}

#endif
