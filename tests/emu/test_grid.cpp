/* How many blocks a launch has: bounds, full use of small devices and large ones, no overflow. */
#include "grid.h"
#include "operations.h"

extern "C" {
#include "native/support.h"

void test_grid(void);
}

using namespace y5;

/* Drivers run what was built with any toolkit of their major release, but 12.0 takes too few
 * arguments. */
static void
check_drivers()
{
    static const int toolkits[][2] = {{12010, 12010}, {12020, 12010}, {12090, 12010},
                                      {13000, 13000}, {13010, 13000}, {13030, 13000},
                                      {14020, 14000}};
    for (const int *pair : toolkits) {
        CHECK(oldest_driver(pair[0]) == pair[1], "%d: %d", pair[0], oldest_driver(pair[0]));
    }
}

static void
check_lists()
{
    static const int64_t units[] = {1, 2, 7, 1056, 1057, 1000000, (int64_t)1 << 40, INT64_MAX};
    static const int64_t multiprocessors[] = {1, 7, 46, 132, 1 << 28};
    for (int64_t count : units) {
        for (int64_t processors : multiprocessors) {
            int64_t blocks = blocks_for(count, processors);
            CHECK(blocks >= 1 && blocks <= grid_x_limit && blocks <= count, "%lld",
                  (long long)blocks);
            CHECK(blocks == count || blocks == grid_x_limit ||
                      blocks == processors * blocks_per_multiprocessor,
                  "%lld blocks for %lld", (long long)blocks, (long long)count);
        }
    }
    CHECK(blocks_for(0, 132) == 1, "a launch has a block");
}

static void
check_planes()
{
    grid one = grid_for_planes(544, 544, 3, 32, 8, 4, 132);
    CHECK(one.x == 17 && one.y == 68 && one.z == 1, "%d %d %d", (int)one.x, (int)one.y, (int)one.z);
    grid many = grid_for_planes(544, 544, 48, 32, 8, 4, 132);
    CHECK(many.x == 17 && many.y == 68 && many.z == 2, "%d", (int)many.z); /* 2,112 / 1,156 */
    grid small = grid_for_planes(10, 10, 64, 32, 8, 4, 132);
    CHECK(small.x == 1 && small.y == 2 && small.z == 16, "%d", (int)small.z);
    grid large =
        grid_for_planes((int64_t)1 << 44, (int64_t)1 << 40, (int64_t)1 << 42, 32, 8, 4, 1 << 20);
    CHECK(large.x == grid_x_limit && large.y == grid_yz_limit && large.z == 1, "%lld %lld %lld",
          (long long)large.x, (long long)large.y, (long long)large.z);
}

void
test_grid(void)
{
    CHECK(ceil_divide(0, 4) == 0 && ceil_divide(1, 4) == 1 && ceil_divide(4, 4) == 1, "rounding");
    CHECK(ceil_divide(INT64_MAX, 2) == INT64_MAX / 2 + 1, "no overflow");
    check_lists();
    check_drivers();
    check_planes();
}
