/* Growing hash set of addresses. Knows nothing of what they point to. */
#include "core/address_set.h"

#include <stdint.h>
#include <stdlib.h>

#define FIRST_CAPACITY 1024 /* YOLOv5n's 270 modules and 177 parameters fit without growing */

static void
put(y5_address_set *set, const void *address)
{
    /* Fibonacci hashing: the low bits of addresses are all alike. */
    uint64_t hash = ((uint64_t)(uintptr_t)address >> 4) * 0x9e3779b97f4a7c15U;
    size_t slot = (size_t)(hash >> 32) & (set->capacity - 1);
    while (set->slots[slot] != NULL && set->slots[slot] != address) {
        slot = (slot + 1) & (set->capacity - 1);
    }
    set->count += set->slots[slot] == NULL;
    set->slots[slot] = address;
}

int
y5_address_set_add(y5_address_set *set, const void *address)
{
    if (set->count * 2 >= set->capacity) {
        y5_address_set larger = {NULL, set->capacity > 0 ? set->capacity * 2 : FIRST_CAPACITY, 0};
        larger.slots = (const void **)calloc(larger.capacity, sizeof(*larger.slots));
        if (larger.slots == NULL) {
            return -1;
        }
        for (size_t i = 0; i < set->capacity; i++) {
            if (set->slots[i] != NULL) {
                put(&larger, set->slots[i]);
            }
        }
        y5_address_set_free(set);
        *set = larger;
    }
    size_t before = set->count;
    put(set, address);
    return set->count > before;
}

void
y5_address_set_free(y5_address_set *set)
{
    free((void *)set->slots);
    *set = (y5_address_set){0};
}
