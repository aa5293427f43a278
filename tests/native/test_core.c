/* The core's tests without Python, one line of output per group. Ends with status 1 at the first
 * failed check.
 *
 *     test_core [--brief] [--simulated] [LEVEL]
 *
 * runs the levels up to LEVEL, by default all that this CPU has, and
 *
 *     test_core --plant overrun|overflow|race|leak
 *
 * does what a checker must report. */
#include "core/levels.h"
#include "core/ops.h"
#include "support.h"
#include "test_core.h"

#include <sched.h>
#include <string.h>

static void
check_float_state(void)
{
    CHECK(y5_float_state_get() == 0, "a fresh thread");
#if Y5_X86
    /* FTZ, DAZ, both; rounding down, up, to zero */
    static const unsigned int flags[] = {0x8000, 0x0040, 0x8040, 0x2000, 0x4000, 0x6000};
    unsigned int before = _mm_getcsr();
    for (int i = 0; i < 6; i++) {
        _mm_setcsr(before | flags[i]);
        if ((_mm_getcsr() & flags[i]) != flags[i]) {
            printf("SKIP MXCSR bits 0x%04x: cannot be set here, as under valgrind\n", flags[i]);
        } else {
            CHECK(y5_float_state_get() == flags[i], "MXCSR bits 0x%04x", flags[i]);
        }
    }
    _mm_setcsr(before);
    CHECK(y5_float_state_get() == 0, "MXCSR as it was");
#elif Y5_ARM
    y5_float_state before = y5_float_state_swap(0x01000000U); /* of FPCR: FZ */
    CHECK(y5_float_state_get() != 0, "FPCR with FZ");
    (void)y5_float_state_swap(0x02c00000U); /* default NaN, towards zero */
    CHECK(y5_float_state_get() != 0, "FPCR towards zero");
    (void)y5_float_state_swap(before);
    CHECK(y5_float_state_get() == 0, "FPCR as it was");
#endif
}

void
test_levels(void)
{
    for (y5_level level = 0; level < Y5_LEVEL_COUNT; level++) {
        CHECK(y5_level_by_name(y5_level_name(level)) == level, "level %d", level);
        CHECK(y5_level_compiled(level) || !y5_level_runs(level), "runs what was not compiled");
        CHECK(!y5_level_runs(level) || level <= y5_level_best(), "level %d", level);
    }
    static const char *const unknown[] = {"", "AVX2", "avx", "avx2 ", "portable\n", "Neon", "sse2"};
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
        CHECK(y5_level_by_name(unknown[i]) == -1, "'%s'", unknown[i]);
    }
    CHECK(y5_level_runs(Y5_LEVEL_PORTABLE), "portable");
    CHECK(y5_level_runs(y5_level_best()), "the best level");
    CHECK(!y5_level_runs(-1) && !y5_level_runs(Y5_LEVEL_COUNT), "no level");
    check_float_state();
}

/* The mistakes a checker of memory, arithmetic or threads is run to find, each on purpose. */
typedef struct {
    _Atomic int32_t arrived;
    volatile int64_t sum;
} race;

static void
add_at_once(int64_t task, void *context)
{
    race *both = context;
    both->arrived++;
    while (both->arrived < 2) {
        (void)sched_yield();
    }
    both->sum += task;
}

static int
plant(const char *mistake)
{
    volatile int64_t result = 0;
    if (strcmp(mistake, "overrun") == 0) { /* one element more than there is */
        char *data = calloc(100, 1);
        y5_tensor tensor = {data, 101, Y5_INT8, Y5_CPU, 0, 1, {101}, {1}};
        printf("%s\n", y5_sparsity_count_tensor(Y5_LEVEL_PORTABLE, &tensor) ? "some" : "none");
        free(data);
    } else if (strcmp(mistake, "overflow") == 0) { /* of a signed integer */
        result = INT64_MAX;
        result = result + (result > 0);
    } else if (strcmp(mistake, "race") == 0) {
        race both = {0};
        y5_pool pool = {pool_run, 2};
        pool_set_threads(2);
        y5_parallel_for(&pool, 2, add_at_once, &both);
    } else {
        CHECK(strcmp(mistake, "leak") == 0, "%s is no mistake known here", mistake);
        void *volatile lost = malloc(100);
        lost = NULL;
        (void)lost;
    }
    return 0;
}

static void
run_level(y5_level level, y5_level highest)
{
    static const struct {
        const char *name;
        void (*run)(y5_level);
    } operations[] = {
        {"ema", test_ema},
        {"sparsity", test_sparsity},
        {"prune", test_prune},
        {"prune_ties", test_prune_ties},
        {"scale_img", test_scale_img},
        {"fuse", test_fuse},
        {"mt19937", test_mt19937},
        {"races", test_races},
    };
    const char *name = y5_level_name(level);
    if (!y5_level_compiled(level)) {
        printf("SKIP %s: not compiled on this architecture\n", name);
    } else if (!y5_level_runs(level)) {
        printf("SKIP %s: this CPU does not run it\n", name);
    } else if (level > highest) {
        printf("SKIP %s: above the level asked for\n", name);
    } else {
        for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++) {
            seed_random(operations[i].name);
            operations[i].run(level);
            printf("ok %s %s\n", operations[i].name, name);
        }
    }
}

int
main(int count, char **arguments)
{
    y5_level highest = Y5_LEVEL_COUNT - 1;
    if (count == 3 && strcmp(arguments[1], "--plant") == 0) {
        return plant(arguments[2]);
    }
    for (int i = 1; i < count; i++) {
        if (strcmp(arguments[i], "--brief") == 0) {
            brief = true;
        } else if (strcmp(arguments[i], "--simulated") == 0) {
            simulated = true;
        } else {
            highest = y5_level_by_name(arguments[i]);
            CHECK(highest >= 0, "%s is no level", arguments[i]);
        }
    }
    static const struct {
        const char *name;
        void (*run)(void);
    } groups[] = {
        {"address_set", test_address_set}, {"half", test_half},         {"y5", test_y5},
        {"overlap", test_overlap},         {"parallel", test_parallel}, {"levels", test_levels},
    };
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        seed_random(groups[i].name);
        groups[i].run();
        printf("ok %s\n", groups[i].name);
    }
    for (y5_level level = 0; level < Y5_LEVEL_COUNT; level++) {
        run_level(level, highest);
    }
    return 0;
}
