/* How many blocks a launch has: bounds, full use of small devices and large ones, no overflow. */
#include "grid.h"

#include "test_emu.h"

static void
check_lists(void)
{
    static const int64_t units[] = {1, 2, 7, 1056, 1057, 1000000, INT64_C(1) << 40, INT64_MAX};
    static const int64_t resident[] = {8, 56, 368, 1056, INT64_C(1) << 31};
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        for (size_t j = 0; j < sizeof(resident) / sizeof(resident[0]); j++) {
            int64_t blocks = y5_grid_for(units[i], resident[j]).x;
            CHECK(blocks >= 1 && blocks <= Y5_GRID_X_LIMIT && blocks <= units[i], "%lld",
                  (long long)blocks);
            CHECK(blocks == units[i] || blocks == Y5_GRID_X_LIMIT || blocks == resident[j],
                  "%lld blocks for %lld", (long long)blocks, (long long)units[i]);
        }
    }
    CHECK(y5_grid_for(0, 1056).x == 1, "a launch has a block");
}

static void
check_planes(void)
{
    y5_grid one = y5_grid_for_planes(544, 544, 3, 32, 8, 4, 1056);
    CHECK(one.x == 17 && one.y == 68 && one.z == 1, "%d %d %d", (int)one.x, (int)one.y, (int)one.z);
    y5_grid many = y5_grid_for_planes(544, 544, 48, 32, 8, 4, 1056);
    CHECK(many.x == 17 && many.y == 68 && many.z == 2, "%d", (int)many.z); /* 2,112 / 1,156 */
    y5_grid small = y5_grid_for_planes(10, 10, 64, 32, 8, 4, 1056);
    CHECK(small.x == 1 && small.y == 2 && small.z == 16, "%d", (int)small.z);
    y5_grid large =
        y5_grid_for_planes(INT64_C(1) << 44, INT64_C(1) << 40, INT64_C(1) << 42, 32, 8, 4, 1 << 23);
    CHECK(large.x == Y5_GRID_X_LIMIT && large.y == Y5_GRID_YZ_LIMIT && large.z == 1,
          "%lld %lld %lld", (long long)large.x, (long long)large.y, (long long)large.z);
}

void
test_grid(void)
{
    CHECK(ceil_divide(0, 4) == 0 && ceil_divide(1, 4) == 1 && ceil_divide(4, 4) == 1, "rounding");
    CHECK(ceil_divide(INT64_MAX, 2) == INT64_MAX / 2 + 1, "no overflow");
    check_lists();
    check_planes();
}
