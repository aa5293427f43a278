/* core/parallel.c on pools of the test's own: every task and every element exactly once. */
#include "core/levels.h"
#include "core/parallel.h"
#include "support.h"
#include "test_core.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#define MAX_TASKS 3000

/* A pool that fails after one part ran. */
static int32_t
run_one_part(int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void *),
             void *context)
{
    (void)end;
    body(begin, begin + grain, context);
    return -1;
}

static const y5_pool_function pools[] = {NULL, pool_run, pool_refuse, run_one_part};

typedef struct {
    _Atomic int32_t times[MAX_TASKS];
} tally;

static void
count_task(int64_t task, void *context)
{
    tally *seen = context;
    seen->times[task]++;
}

static void
check_every_task_once(void)
{
    static tally seen;
    for (int32_t round = 0; round < (brief ? 60 : 600); round++) {
        int64_t tasks = round % 3 == 0 ? random_between(0, MAX_TASKS) : random_between(0, 6);
        pool_set_threads((int32_t)random_between(1, 4));
        y5_pool pool = {pools[round % 4], (int32_t)random_between(0, 6)};
        memset(&seen, 0, sizeof(seen));
        y5_parallel_for(&pool, tasks, count_task, &seen);
        for (int64_t i = 0; i < MAX_TASKS; i++) {
            CHECK(seen.times[i] == (i < tasks), "task %d of %d, %d times", (int)i, (int)tasks,
                  seen.times[i]);
        }
    }
}

typedef struct {
    int64_t next;
    pthread_t caller;
} order;

static void
expect_next(int64_t task, void *context)
{
    order *expected = context;
    CHECK(task == expected->next, "task %d, not %d", (int)task, (int)expected->next);
    CHECK(pthread_equal(pthread_self(), expected->caller), "on another thread");
    expected->next++;
}

/* Without a pool, with a pool of one, and for one task: in order, on the calling thread. */
static void
check_plain_loop(void)
{
    static const y5_pool serial[] = {{NULL, 1}, {NULL, 4}, {pool_run, 1}, {pool_run, 0}};
    int64_t calls = pool_calls();
    for (size_t i = 0; i < sizeof(serial) / sizeof(serial[0]); i++) {
        order expected = {0, pthread_self()};
        y5_parallel_for(&serial[i], 17, expect_next, &expected);
        CHECK(expected.next == 17, "%d tasks ran", (int)expected.next);
    }
    y5_pool pool = {pool_run, 4};
    order expected = {0, pthread_self()};
    y5_parallel_for(&pool, 1, expect_next, &expected);
    y5_parallel_for(&pool, 0, expect_next, &expected);
    CHECK(expected.next == 1 && pool_calls() == calls, "the pool was called without need");
}

static void
meet(int64_t task, void *context)
{
    (void)task;
    _Atomic int32_t *arrived = context;
    (*arrived)++;
    for (time_t start = time(NULL); *arrived < 2;) {
        CHECK(time(NULL) - start < 60, "one task waits for another");
        (void)sched_yield();
    }
}

/* Two tasks that wait for each other end only where they run side by side. */
static void
check_side_by_side(void)
{
    _Atomic int32_t arrived = 0;
    pool_set_threads(2);
    y5_pool pool = {pool_run, 2};
    y5_parallel_for(&pool, 2, meet, &arrived);
}

typedef struct {
    const int64_t *starts;
    int64_t task_elements; /* 0: every item is one part */
    _Atomic int32_t *times;
} row_tally;

static int64_t
numel_of(int64_t item, const void *context)
{
    const int64_t *starts = ((const row_tally *)context)->starts;
    return starts[item + 1] - starts[item];
}

static void
count_part(int64_t item, int64_t first, int64_t last, void *context)
{
    const row_tally *seen = context;
    const int64_t *starts = seen->starts;
    int64_t numel = numel_of(item, seen);
    CHECK(0 <= first && first < last && last <= numel, "item %d: %d to %d of %d", (int)item,
          (int)first, (int)last, (int)numel);
    int64_t from = starts[item] + first;
    int64_t to = starts[item] + last;
    if (seen->task_elements == 0) {
        CHECK(first == 0 && last == numel, "item %d was cut", (int)item);
    } else {
        CHECK(from / seen->task_elements == (to - 1) / seen->task_elements, "beyond a task");
    }
    for (int64_t i = from; i < to; i++) {
        seen->times[i]++;
    }
}

static void
check_every_element_once(void)
{
    enum { MOST = 40 };
    int64_t starts[MOST + 1];
    for (int32_t round = 0; round < (brief ? 100 : 1500); round++) {
        int64_t count = random_between(0, MOST);
        starts[0] = 0;
        for (int64_t i = 0; i < count; i++) {
            bool empty = random_between(0, 2) == 0 || round % 16 == 0;
            starts[i + 1] = starts[i] + (empty ? 0 : random_between(1, 200));
        }
        int64_t total = starts[count];
        int64_t task_elements = round % 5 == 0 ? 100000 : random_between(1, 64);
        pool_set_threads((int32_t)random_between(1, 4));
        y5_pool pool = {pools[round % 4], round % 7 == 0 ? 1 : (int32_t)random_between(2, 5)};
        bool whole = pool.run == NULL || pool.threads < 2;
        row_tally seen = {starts, whole ? 0 : task_elements, NULL};
        seen.times = calloc((size_t)total + 1, sizeof(*seen.times));
        y5_parallel_items(&pool, count, numel_of, task_elements, count_part, &seen);
        for (int64_t i = 0; i < total; i++) {
            CHECK(seen.times[i] == 1, "element %d of %d, %d times", (int)i, (int)total,
                  seen.times[i]);
        }
        free((void *)seen.times);
    }
}

/* A state that neither rounds to nearest nor keeps subnormal numbers; 0 where none is known. */
#if Y5_X86
#define ODD_STATE 0xc040U
#elif defined(__aarch64__)
#define ODD_STATE 0x01400000U
#else
#define ODD_STATE 0U
#endif

typedef struct {
    void (*body)(int64_t, int64_t, void *);
    void *context;
} wrapped;

static void
run_in_odd_state(int64_t begin, int64_t end, void *context)
{
    const wrapped *work = context;
    y5_float_state own = y5_float_state_swap(ODD_STATE);
    work->body(begin, end, work->context);
    CHECK(y5_float_state_swap(own) == ODD_STATE, "a worker's state did not come back");
}

/* A pool whose threads were started in another state. */
static int32_t
odd_pool_run(int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void *),
             void *context)
{
    wrapped work = {body, context};
    return pool_run(begin, end, grain, run_in_odd_state, &work);
}

static void
compute(int64_t task, void *context)
{
    const y5_float_state *expected = context;
    volatile float least = 0x1p-149F;
    volatile float one = 1.0F;
    bool odd = *expected == ODD_STATE;
    CHECK(y5_float_state_get() == *expected, "task %d: another state", (int)task);
    CHECK((least * 2.0F == 0.0F) == odd, "task %d: subnormal numbers", (int)task);
    CHECK((one + 0x1p-30F > 1.0F) == odd, "task %d: rounding", (int)task);
}

/* Whoever takes a task computes as the caller does, and afterwards as before. */
static void
check_float_state(void)
{
    const char *preloaded = getenv("LD_PRELOAD");
    if (preloaded != NULL && strstr(preloaded, "vgpreload") != NULL) {
        printf("SKIP the floating-point state: valgrind knows of it no more than the rounding\n");
        return;
    }
    y5_float_state usual = y5_float_state_swap(ODD_STATE);
    y5_float_state odd = y5_float_state_swap(usual);
    CHECK(odd == ODD_STATE, "%llx", (unsigned long long)odd);
    static const y5_pool_function both[] = {pool_run, odd_pool_run};
    for (int32_t round = 0; round < 40; round++) {
        int32_t threads = (int32_t)random_between(1, 4);
        y5_pool pool = {both[round % 2], threads};
        pool_set_threads(threads);
        y5_float_state state = round % 4 < 2 ? usual : ODD_STATE;
        y5_float_state found = y5_float_state_swap(state);
        bool agrees = y5_pool_agrees(&pool);
        y5_parallel_for(&pool, 9, compute, &state);
        CHECK(y5_float_state_swap(found) == state, "the caller's state did not come back");
        /* Those of pool_run inherit the caller's. */
        CHECK(agrees == (round % 4 != 1 || threads == 1), "round %d", round);
    }
}

void
test_parallel(void)
{
    check_every_task_once();
    check_plain_loop();
    check_side_by_side();
    check_every_element_once();
    check_float_state();
}
