/* y5_parallel_for on top of a pool that hands each thread one contiguous part. Knows no pool by
 * name. */
#include "core/parallel.h"

#include "core/levels.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

typedef struct {
    y5_float_state state;
    _Atomic bool differs;
} comparison;

static void
compare_state(int64_t begin, int64_t end, void *context)
{
    (void)begin;
    (void)end;
    comparison *work = context;
    if (y5_float_state_get() != work->state) {
        atomic_store_explicit(&work->differs, true, memory_order_relaxed);
    }
}

bool
y5_pool_agrees(const y5_pool *pool)
{
    comparison work = {.state = y5_float_state_get()};
    atomic_init(&work.differs, false);
    if (pool->run != NULL && pool->threads > 1) {
        (void)pool->run(0, pool->threads, 1, compare_state, &work);
    }
    return !work.differs;
}

typedef struct {
    _Atomic int64_t next;
    int64_t tasks;
    y5_task body;
    void *context;
    y5_float_state state; /* the caller's: no result depends on who takes a task */
} queue;

/* A worker ignores the part it was given: parts are equal in count, tasks are not equal in work. */
static void
drain(int64_t begin, int64_t end, void *context)
{
    (void)begin;
    (void)end;
    queue *work = context;
    y5_float_state own = y5_float_state_swap(work->state);
    int64_t task = atomic_fetch_add_explicit(&work->next, 1, memory_order_relaxed);
    while (task < work->tasks) {
        work->body(task, work->context);
        task = atomic_fetch_add_explicit(&work->next, 1, memory_order_relaxed);
    }
    (void)y5_float_state_swap(own);
}

void
y5_parallel_for(const y5_pool *pool, int64_t tasks, y5_task body, void *context)
{
    queue work = {.tasks = tasks, .body = body, .context = context, .state = y5_float_state_get()};
    atomic_init(&work.next, 0);
    if (pool->run != NULL && pool->threads > 1 && tasks > 1) {
        int64_t workers = pool->threads < tasks ? pool->threads : tasks;
        /* A pool that fails before it starts leaves the queue full; the drain below empties it. */
        (void)pool->run(0, workers, 1, drain, &work);
    }
    drain(0, 1, &work);
}

typedef struct {
    const int64_t *starts; /* the elements in front of each item, and at the end all */
    int64_t count;
    int64_t task_elements;
    y5_item_part body;
    void *context;
} row;

/* The last item that starts at or before `position`. */
static int64_t
item_at(const row *items, int64_t position)
{
    int64_t low = 0;
    int64_t high = items->count;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (items->starts[middle] <= position) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

static void
run_row_task(int64_t task, void *context)
{
    const row *items = context;
    const int64_t *starts = items->starts;
    int64_t begin = task * items->task_elements;
    int64_t end = begin + items->task_elements;
    for (int64_t i = item_at(items, begin); i < items->count && starts[i] < end; i++) {
        int64_t first = begin > starts[i] ? begin - starts[i] : 0;
        int64_t last = (end < starts[i + 1] ? end : starts[i + 1]) - starts[i];
        if (first < last) {
            items->body(i, first, last, items->context);
        }
    }
}

void
y5_parallel_items(const y5_pool *pool, int64_t count, y5_item_numel numel, int64_t task_elements,
                  y5_item_part body, void *context)
{
    bool serial = pool->run == NULL || pool->threads < 2;
    int64_t *starts = serial ? NULL : malloc(((size_t)count + 1) * sizeof(*starts));
    int64_t total = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t elements = numel(i, context);
        if (starts != NULL) {
            starts[i] = total;
        } else if (elements > 0) {
            body(i, 0, elements, context);
        }
        total += elements;
    }
    if (starts != NULL) {
        starts[count] = total;
        row items = {starts, count, task_elements, body, context};
        int64_t tasks = total / task_elements + (total % task_elements > 0);
        y5_parallel_for(pool, tasks, run_row_task, &items);
        free(starts);
    }
}
