/* y5_parallel_items: whatever the items' sizes, the parts are all elements of every item, each
 * once, and none is larger than a task; and y5_parallel_for: every task runs once. */
#include "core/parallel.h"
#include "fuzz.h"

#define MOST_ITEMS 64
#define MOST_TASKS 200

typedef struct {
    int64_t numel[MOST_ITEMS];
    int64_t done[MOST_ITEMS]; /* elements; parts of an item come in order where tasks do */
    int64_t most;             /* elements of a part */
    int64_t parts;
} row_of_items;

static int64_t
numel_of(int64_t item, const void *context)
{
    return ((const row_of_items *)context)->numel[item];
}

static void
note_part(int64_t item, int64_t first, int64_t last, void *context)
{
    row_of_items *row = context;
    CHECK(first == row->done[item], "item %d begins at %lld", (int)item, (long long)first);
    CHECK(first < last && last <= row->numel[item], "to %lld", (long long)last);
    CHECK(last - first <= row->most, "a part of %lld", (long long)(last - first));
    row->done[item] = last;
    row->parts++;
}

static void
note_task(int64_t task, void *context)
{
    uint8_t *ran = context;
    CHECK(ran[task]++ == 0, "task %d ran twice", (int)task);
}

static void
check_tasks(const y5_pool *pool, int64_t tasks)
{
    uint8_t *ran = calloc((size_t)tasks + 1, 1);
    y5_parallel_for(pool, tasks, note_task, ran);
    for (int64_t i = 0; i < tasks; i++) {
        CHECK(ran[i] == 1, "task %d of %d did not run", (int)i, (int)tasks);
    }
    free(ran);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input from = {data, size};
    static const y5_pool_function pools[] = {NULL, pool_in_turn, pool_refuse};
    y5_pool pool = {pools[take_between(&from, 0, 2)], (int32_t)take_between(&from, 0, 9)};
    row_of_items row = {.most = INT64_MAX};
    int64_t count = take_between(&from, 0, MOST_ITEMS);
    int64_t total = 0;
    for (int64_t i = 0; i < count; i++) {
        row.numel[i] = take_size(&from) & INT32_MAX;
        total += row.numel[i];
    }
    int64_t task_elements = total / MOST_TASKS + 1 + take_between(&from, 0, 65535);
    if (pool.run != NULL && pool.threads > 1) {
        row.most = task_elements;
    }
    y5_parallel_items(&pool, count, numel_of, task_elements, note_part, &row);
    for (int64_t i = 0; i < count; i++) {
        CHECK(row.done[i] == row.numel[i], "item %d ends at %lld", (int)i, (long long)row.done[i]);
    }
    CHECK(row.parts <= count + total / task_elements + 1, "%d parts", (int)row.parts);
    check_tasks(&pool, take_between(&from, 0, 50));
    return 0;
}
