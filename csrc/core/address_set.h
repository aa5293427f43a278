/* A set of addresses, for walks that meet the same object twice. */
#ifndef Y5_ADDRESS_SET_H
#define Y5_ADDRESS_SET_H

#include <stddef.h>

/* Open addressing, a power of two of slots, at most half of them full. Zero-initialise. */
typedef struct {
    const void **slots;
    size_t capacity;
    size_t count;
} y5_address_set;

/* 1 where the address (not NULL) is new, 0 where it was there, -1 without memory. */
int y5_address_set_add(y5_address_set *set, const void *address);

void y5_address_set_free(y5_address_set *set);

#endif
