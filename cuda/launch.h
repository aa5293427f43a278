/* What the launchers share: checks of arguments, and tables of items. Knows no operation. */
#ifndef Y5_LAUNCH_H
#define Y5_LAUNCH_H

#include "driver.h"

/* Chunks of a table must fit its 32-bit numbers, elements the 60 bits ema packs them into. */
#define Y5_NUMEL_LIMIT (INT64_C(1) << 42)

/* A pointer that may be read as elements of `bytes` bytes. */
static inline bool
is_aligned(const void *data, size_t bytes)
{
    return (uintptr_t)data % bytes == 0;
}

static inline bool
is_floating(y5_dtype dtype)
{
    return dtype >= 0 && dtype < Y5_FLOATING_COUNT;
}

/* Y5_CUDA_OK for the elements of list[index] as they must be: of a number that a table takes, there
 * and aligned. */
y5_cuda_status y5_cuda_check_elements(const char *list, int64_t index, const void *data,
                                      int64_t numel, size_t alignment, y5_cuda_error *error);

/* An operation on a list of items, which is cut into as few tables as their number allows: one for
 * as many as many_bytes hold. */
typedef struct {
    int64_t count;
    size_t entry_bytes;
    /* Y5_CUDA_OK where item i can be taken. All are asked before anything else is done. */
    y5_cuda_status (*check)(const void *operation, int64_t i, y5_cuda_error *error);
    /* Writes item i's entry and returns its chunks. */
    int64_t (*fill)(const void *operation, int64_t i, void *entry);
    /* Launches on a table that holds the items from `first` on. All launches of a call are of one
     * kernel, stream and size of arguments, so that what is wrong with any of these fails the
     * first, when nothing is written yet. */
    y5_cuda_status (*launch)(void *operation, const y5_cuda_call *call, table_head *table,
                             bool many, int64_t first);
    void *operation;
    /* Memory that is cleared in front of the first launch; NULL for none. */
    void *cleared;
    int64_t cleared_bytes;
    const char *attempt; /* which the sentence names where that fails */
} y5_cuda_list;

y5_cuda_status y5_cuda_run_list(const y5_cuda_where *where, const y5_cuda_list *list,
                                y5_cuda_error *error);

/* The grid of a kernel that shares a table's chunks out. */
y5_grid y5_cuda_grid(const y5_cuda_call *call, int kernel, const table_head *table);

#endif
