/* How many blocks a launch has: plain arithmetic on the host, tested alone. Knows no kernel. */
#ifndef Y5_GRID_H
#define Y5_GRID_H

#include <stdint.h>

namespace y5 {

/* What a grid may have: blocks along x, and along y and z. */
constexpr int64_t grid_x_limit = 0x7fffffff;
constexpr int64_t grid_yz_limit = 65535;

/* Blocks of 256 threads that a multiprocessor runs at once, at most: 2,048 threads. More blocks
 * than that would only queue, since each takes an equal share of the work. */
constexpr int64_t blocks_per_multiprocessor = 8;

/* a / b rounded up, for a >= 0 and b > 0, without overflow. */
inline int64_t
ceil_divide(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

inline int64_t
smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Blocks for `units` pieces of work of one size: one each, as long as all run at once. */
inline int64_t
blocks_for(int64_t units, int64_t multiprocessors)
{
    int64_t resident = multiprocessors * blocks_per_multiprocessor;
    int64_t blocks = smaller(units, smaller(resident, grid_x_limit));
    return blocks > 1 ? blocks : 1;
}

struct grid {
    int64_t x;
    int64_t y;
    int64_t z;
};

/* A grid over the rows of a plane, elements of a row along x; deep enough in z to fill the device
 * where one plane does not, but with at least `planes_per_thread` planes left to each thread. */
inline grid
grid_for_planes(int64_t row_elements, int64_t rows, int64_t planes, int64_t row_threads,
                int64_t block_rows, int64_t planes_per_thread, int64_t multiprocessors)
{
    grid result;
    result.x = smaller(ceil_divide(row_elements, row_threads), grid_x_limit);
    result.y = smaller(ceil_divide(rows, block_rows), grid_yz_limit);
    int64_t wanted = 2 * multiprocessors * blocks_per_multiprocessor;
    /* Both factors are below 2^31, so that the product stays below 2^47. */
    int64_t depth = ceil_divide(wanted, result.x * result.y);
    result.z = smaller(smaller(depth, ceil_divide(planes, planes_per_thread)), grid_yz_limit);
    return result;
}

} // namespace y5

#endif
