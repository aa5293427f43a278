/* Runs numbered tasks on a borrowed thread pool, or in a plain loop. Never starts a thread. */
#ifndef Y5_PARALLEL_H
#define Y5_PARALLEL_H

#include <stdbool.h>
#include <stdint.h>

/* A pool's entry point: calls `body` with disjoint parts of [begin, end) on its threads, returns
 * when all are done; 0 for success. torch_parallel_for has this type. */
typedef int32_t (*y5_pool_function)(int64_t begin, int64_t end, int64_t grain,
                                    void (*body)(int64_t, int64_t, void *), void *context);

/* The pool of one call. `run` NULL or `threads` below 2 means: plain loop. */
typedef struct {
    y5_pool_function run;
    int32_t threads;
} y5_pool;

/* One task, 0 <= task < tasks. Must not fail. */
typedef void (*y5_task)(int64_t task, void *context);

/* True where all threads of the pool compute in the calling thread's floating-point state. */
bool y5_pool_agrees(const y5_pool *pool);

/* Calls `body` once for every task, always in the calling thread's floating-point state. Threads
 * draw the next task from a common counter, so give the largest tasks the lowest numbers. */
void y5_parallel_for(const y5_pool *pool, int64_t tasks, y5_task body, void *context);

/* The number of elements of an item, the same whenever it is asked for. */
typedef int64_t (*y5_item_numel)(int64_t item, const void *context);

/* Elements first ... last - 1 of an item. Must not fail. */
typedef void (*y5_item_part)(int64_t item, int64_t first, int64_t last, void *context);

/* Lays `count` items end to end, cuts the row into tasks of `task_elements` elements, and calls
 * `body` for every part of an item that falls into a task. Without a pool, or without memory for 8
 * bytes an item, each item is one part. */
void y5_parallel_items(const y5_pool *pool, int64_t count, y5_item_numel numel,
                       int64_t task_elements, y5_item_part body, void *context);

#endif
