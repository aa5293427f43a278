/* core/address_set.c against a plain list, beyond the size at which the set grows. */
#include "core/address_set.h"
#include "support.h"
#include "test_core.h"

/* Addresses as allocators give them (a common base, a common step) and arbitrary ones. */
static const void *
draw_address(int32_t kind)
{
    uint64_t bits = random_bits();
    uint64_t steps[] = {bits % 3000 * 16, bits % 3000 * 4096, bits % 3000 << 32, bits};
    uintptr_t address = (uintptr_t)(kind == 3 ? bits : 0x7f0000000000U + steps[kind]);
    return (const void *)(address != 0 ? address : 1);
}

static bool
listed(const void **list, int64_t count, const void *address)
{
    for (int64_t i = 0; i < count; i++) {
        if (list[i] == address) {
            return true;
        }
    }
    return false;
}

void
test_address_set(void)
{
    enum { MOST = 2500 }; /* the set grows at 512, 1024 and 2048 */
    int64_t most = brief ? 700 : MOST;
    static const void *list[MOST];
    for (int32_t kind = 0; kind < 4; kind++) {
        y5_address_set set = {0};
        int64_t count = 0;
        for (int32_t round = 0; round < 2 * MOST && count < most; round++) {
            bool again = count > 0 && round % 4 == 3;
            const void *address = again ? list[random_between(0, count - 1)] : draw_address(kind);
            int is_new = !listed(list, count, address);
            CHECK(y5_address_set_add(&set, address) == is_new, "%p is %s", address,
                  is_new ? "new" : "known");
            if (is_new) {
                list[count++] = address;
            }
        }
        CHECK(set.count == (size_t)count && count > 600, "%d addresses", (int)count);
        for (int64_t i = 0; i < count; i++) {
            CHECK(y5_address_set_add(&set, list[i]) == 0, "%p was forgotten", list[i]);
        }
        y5_address_set_free(&set);
        CHECK(set.slots == NULL && set.count == 0, "empty after free");
        CHECK(y5_address_set_add(&set, list[0]) == 1, "usable again");
        y5_address_set_free(&set);
        y5_address_set_free(&set); /* twice is nothing */
    }
}
