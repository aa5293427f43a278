/* Every operation at one level while all that it reads changes: its result may be anything, but it
 * ends, and the memory around the tensors is neither read nor written. Another thread writes to the
 * tensors; and where no two threads run at once, a fault that each page read causes does. The
 * writer is not instrumented, so that ThreadSanitizer watches the core's own state only. */
#define _DEFAULT_SOURCE /* anonymous maps, the clock */

#include "core/ops.h"
#include "support.h"
#include "test_core.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CANARY 0x5a
#define MOST_AREAS 8

/* Memory that ends where a page does which nobody may touch, and with canaries in front. */
typedef struct {
    char *mapped;
    int64_t mapped_bytes; /* the forbidden page included */
    char *data;
    int64_t bytes;
    char *last; /* page of it that was read */
} fenced;

static fenced
fence(int64_t bytes)
{
    int64_t page = (int64_t)sysconf(_SC_PAGESIZE);
    fenced made = {NULL, (bytes / page + 3) * page, NULL, bytes, NULL};
    void *mapped = mmap(NULL, (size_t)made.mapped_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mapped != MAP_FAILED, "%lld bytes", (long long)made.mapped_bytes);
    made.mapped = mapped;
    made.data = made.mapped + made.mapped_bytes - page - bytes;
    CHECK(mprotect(made.data + bytes, (size_t)page, PROT_NONE) == 0, "a fence");
    memset(made.mapped, CANARY, (size_t)(made.data - made.mapped));
    return made;
}

static void
take_down(const fenced *made, const char *what)
{
    for (const char *at = made->mapped; at < made->data; at++) {
        CHECK(*at == CANARY, "%s: wrote %d bytes in front of the tensor", what,
              (int)(made->data - at));
    }
    CHECK(munmap(made->mapped, (size_t)made->mapped_bytes) == 0, "%s", what);
}

/* What the other thread writes to, until it is told to stop. */
typedef struct {
    fenced areas[MOST_AREAS];
    int32_t count;
    uint64_t seed;
    _Atomic bool stop;
} writing;

static writing *faulting = NULL; /* what a fault changes; only one thread runs then */

/* Makes all elements of an area equal, different, zero, NaN or anything: what one pass counted is
 * not there when the next one comes. */
__attribute__((no_sanitize_thread)) static void
rewrite(const fenced *area, uint64_t *seed)
{
    uint64_t random = *seed = *seed * 6364136223846793005U + 1442695040888963407U;
    uint64_t kind = random >> 61;
    volatile uint16_t *words = (volatile uint16_t *)(void *)area->data;
    for (int64_t i = 0; i < area->bytes / 2; i++) {
        uint64_t mixed = (random + (uint64_t)i) * 0x9e3779b97f4a7c15U;
        uint16_t other = kind < 5 ? (uint16_t)(0x4000 + i % 0x3b00) : (uint16_t)(mixed >> 48);
        words[i] = kind < 2 ? 0x3c3c : kind == 2 ? 0 : kind == 3 ? 0xffff : other;
    }
}

static void *
keep_writing(void *context)
{
    writing *work = context;
    while (!atomic_load_explicit(&work->stop, memory_order_relaxed)) {
        rewrite(&work->areas[(work->seed >> 32) % (uint64_t)work->count], &work->seed);
    }
    return NULL;
}

static void
permit(const fenced *area, char *page, int how)
{
    int64_t bytes = (int64_t)sysconf(_SC_PAGESIZE);
    if (page == NULL) { /* all */
        page = area->data - (uintptr_t)area->data % (uintptr_t)bytes;
        bytes = area->data + area->bytes - page;
    }
    if (mprotect(page, (size_t)bytes, how) != 0) {
        _exit(2);
    }
}

/* Of each area two pages can be read, the last two that were, since a load may lie on both. At some
 * of the faults all of it becomes something else. */
static void
meet_fault(int number, siginfo_t *where, void *context)
{
    static const char words[] = "test_races.c:0: outside the tensors\n";
    (void)number;
    (void)context;
    char *address = where->si_addr;
    for (int32_t i = 0; faulting != NULL && i < faulting->count; i++) {
        fenced *area = &faulting->areas[i];
        char *page = address - (uintptr_t)address % (uintptr_t)sysconf(_SC_PAGESIZE);
        if (area->mapped <= address && address < area->data + area->bytes) {
            permit(area, NULL, PROT_READ | PROT_WRITE);
            if ((faulting->seed >> 40) % 16 == 0) {
                rewrite(area, &faulting->seed);
            }
            faulting->seed = faulting->seed * 6364136223846793005U + 1442695040888963407U;
            permit(area, NULL, PROT_NONE);
            permit(area, page, PROT_READ | PROT_WRITE);
            if (area->last != NULL) {
                permit(area, area->last, PROT_READ | PROT_WRITE);
            }
            area->last = page;
            return;
        }
    }
    (void)!write(STDERR_FILENO, words, sizeof(words) - 1);
    _exit(1);
}

typedef void (*racing)(const y5_run *run, void *context);

/* Calls a few times while pages change as they are read. */
static void
race_with_faults(writing *work, racing call, void *context, y5_level level)
{
    struct sigaction handler = {.sa_sigaction = meet_fault, .sa_flags = SA_SIGINFO};
    struct sigaction before;
    CHECK(sigaction(SIGSEGV, &handler, &before) == 0, "a handler");
    y5_run run = {level, {NULL, 1}};
    for (int32_t times = 0; times < 4; times++) {
        for (int32_t i = 0; i < work->count; i++) {
            rewrite(&work->areas[i], &work->seed);
            permit(&work->areas[i], NULL, PROT_NONE);
            work->areas[i].last = NULL;
        }
        faulting = work;
        call(&run, context);
        faulting = NULL;
        for (int32_t i = 0; i < work->count; i++) {
            permit(&work->areas[i], NULL, PROT_READ | PROT_WRITE);
        }
    }
    CHECK(sigaction(SIGSEGV, &before, NULL) == 0, "a handler");
}

/* Calls again and again while another thread writes. */
static void
race_with_thread(writing *work, racing call, void *context, y5_level level)
{
    pthread_t writer;
    atomic_init(&work->stop, false);
    CHECK(pthread_create(&writer, NULL, keep_writing, work) == 0, "the writer");
    struct timespec start;
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &start) == 0, "the clock");
    int64_t limit_ns = (brief ? 2 : 4) * (int64_t)1000000;
    do {
        int32_t threads = (int32_t)random_between(1, 2);
        pool_set_threads(threads);
        y5_run run = {level, {pool_run, threads}};
        call(&run, context);
        CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0, "the clock");
    } while ((now.tv_sec - start.tv_sec) * (int64_t)1000000000 + now.tv_nsec - start.tv_nsec <
             limit_ns);
    atomic_store(&work->stop, true);
    CHECK(pthread_join(writer, NULL) == 0, "the writer");
}

/* Both ways; `scattered` calls read a page in between any two reads of another. */
static void
race(writing *work, racing call, void *context, y5_level level, bool scattered, const char *what)
{
    work->seed = random_bits();
    race_with_thread(work, call, context, level);
    if (!scattered && !simulated) {
        race_with_faults(work, call, context, level);
    }
    for (int32_t i = 0; i < work->count; i++) {
        take_down(&work->areas[i], what);
    }
}

static void *
add_area(writing *work, int64_t bytes)
{
    CHECK(work->count < MOST_AREAS, "%d areas", work->count);
    work->areas[work->count] = fence(bytes);
    fill(work->areas[work->count].data, bytes / 2, Y5_FLOAT16);
    return work->areas[work->count++].data;
}

typedef struct {
    y5_prune_layer layers[2];
    bool like_torch;
} pruning;

static void
prune_once(const y5_run *run, void *context)
{
    pruning *call = context;
    y5_prune(run, call->layers, 2, call->like_torch);
    for (int32_t i = 0; i < 2; i++) {
        call->layers[i].ambiguous = false;
    }
}

/* Layers of each way to select: few keys, one sample, samples of samples; written past the caches
 * or not. Most of the weights go, so that there is much to be searched for. */
static void
race_prune(y5_level level, y5_dtype dtype)
{
    static const int64_t sizes[] = {700, 5001, 40000, 300001};
    int64_t width = (int64_t)y5_dtype_bytes(dtype);
    for (int32_t i = 0; i < 3; i++) {
        for (int32_t like_torch = 0; like_torch < 2; like_torch++) {
            writing work = {.count = 0};
            pruning call = {.like_torch = like_torch != 0};
            fenced pruned[2];
            for (int32_t part = 0; part < 2; part++) {
                int64_t numel = sizes[i] + part;
                pruned[part] = fence(numel * width);
                int64_t count = part == 0 ? numel - numel / 50 : numel / 3;
                call.layers[part] = (y5_prune_layer){
                    add_area(&work, numel * width), pruned[part].data, numel, count, dtype, false};
            }
            race(&work, prune_once, &call, level, false, "prune");
            take_down(&pruned[0], "pruned");
            take_down(&pruned[1], "pruned");
        }
    }
}

typedef struct {
    y5_ema_pair pair;
    const y5_ema_layout *layout; /* or NULL */
} averaging;

static void
average_once(const y5_run *run, void *context)
{
    averaging *call = context;
    y5_ema_update(run, &call->pair, &call->layout, 1, 0.9);
}

static void
race_ema(y5_level level, y5_dtype average, y5_dtype source, bool strided)
{
    enum { ROWS = 333, COLUMNS = 257 };
    writing work = {.count = 0};
    static const y5_ema_layout layout = {2, {ROWS, COLUMNS}, {COLUMNS, 1}, {1, ROWS}};
    averaging call = {.layout = strided ? &layout : NULL};
    call.pair = (y5_ema_pair){
        add_area(&work, ROWS * COLUMNS * (int64_t)y5_dtype_bytes(average)),
        add_area(&work, ROWS * COLUMNS * (int64_t)y5_dtype_bytes(source)),
        ROWS * COLUMNS,
        average,
        source,
    };
    race(&work, average_once, &call, level, strided, "ema");
}

typedef struct {
    y5_elements item;
    y5_tensor tensor;
} counting;

static void
count_once(const y5_run *run, void *context)
{
    const counting *call = context;
    _Atomic int64_t zeros = 0;
    y5_sparsity_count(run, &call->item, 1, &zeros);
    int64_t numel = call->item.numel;
    int64_t found = zeros;
    int64_t again = y5_sparsity_count_tensor(run->level, &call->tensor);
    CHECK(0 <= found && found <= numel && 0 <= again && again <= numel, "%lld and %lld of %lld",
          (long long)found, (long long)again, (long long)numel);
}

static void
race_sparsity(y5_level level, y5_dtype dtype)
{
    enum { ROWS = 402, COLUMNS = 331 };
    writing work = {.count = 0};
    char *data = add_area(&work, ROWS * COLUMNS * (int64_t)y5_dtype_bytes(dtype));
    counting call = {
        .item = {data, ROWS * COLUMNS, dtype},
        .tensor = {data, ROWS * COLUMNS, dtype, Y5_CPU, 0, 2, {COLUMNS, ROWS}, {1, COLUMNS}},
    };
    race(&work, count_once, &call, level, true, "sparsity");
}

typedef struct {
    y5_fuse_pair pair;
    void *roots;
} fusing;

static void
fuse_once(const y5_run *run, void *context)
{
    const fusing *call = context;
    y5_fuse_pair rooted = call->pair;
    _Atomic int32_t doubtful = 0;
    y5_fuse_variances(&call->pair, call->roots);
    rooted.variance = call->roots;
    y5_fuse(run, &rooted, NULL, 1, &doubtful);
}

static void
race_fuse(y5_level level, y5_dtype dtype, int64_t columns)
{
    enum { ROWS = 130 };
    int64_t width = (int64_t)y5_dtype_bytes(dtype);
    writing work = {.count = 0};
    fenced weight = fence(ROWS * columns * (int64_t)sizeof(float));
    fenced bias = fence(ROWS * (int64_t)sizeof(float));
    fusing call = {.roots = add_area(&work, ROWS * width)};
    call.pair = (y5_fuse_pair){
        .weight = add_area(&work, ROWS * columns * width),
        .bias = add_area(&work, ROWS * width),
        .gamma = add_area(&work, ROWS * width),
        .beta = add_area(&work, ROWS * width),
        .mean = add_area(&work, ROWS * width),
        .variance = add_area(&work, ROWS * width),
        .fused_weight = weight.data,
        .fused_bias = bias.data,
        .rows = ROWS,
        .columns = columns,
        .epsilon = 1e-3,
        .dtype = dtype,
        .fused_dtype = Y5_FLOAT32,
    };
    race(&work, fuse_once, &call, level, false, "fuse");
    take_down(&weight, "fused weight");
    take_down(&bias, "fused bias");
}

static void
scale_once(const y5_run *run, void *context)
{
    y5_error error;
    CHECK(y5_scale_img_run(run, context, &error) == Y5_OK, "no memory");
}

static void
race_scale_img(y5_level level, int32_t variant, bool interleaved)
{
    enum { CHANNELS = 3, HEIGHT = 61, WIDTH = 83 };
    writing work = {.count = 0};
    fenced result = fence(CHANNELS * 64 * 96 * (int64_t)sizeof(float));
    y5_scale_img job = {
        .image = add_area(&work, CHANNELS * HEIGHT * WIDTH * (int64_t)sizeof(float)),
        .output = result.data,
        .planes = interleaved ? 1 : CHANNELS,
        .interleaved = interleaved ? CHANNELS : 1,
        .channels = CHANNELS,
        .rows = {HEIGHT, 44, 64},
        .columns = {WIDTH, 101, 96},
        .dtype = Y5_FLOAT32,
        .variant = variant,
    };
    race(&work, scale_once, &job, level, false, "scale_img");
    take_down(&result, "the resized image");
}

void
test_races(y5_level level)
{
    static const y5_dtype counted[] = {Y5_INT8, Y5_FLOAT16, Y5_FLOAT32, Y5_FLOAT64, Y5_COMPLEX128};
    for (int32_t i = 0; i < Y5_FLOATING_COUNT; i++) {
        y5_dtype dtype = (y5_dtype)i;
        race_prune(level, dtype);
        race_ema(level, dtype, dtype, i % 2 == 1);
        race_ema(level, dtype, (y5_dtype)((i + 1) % Y5_FLOATING_COUNT), i % 2 == 0);
        race_fuse(level, dtype, 9);
    }
    race_fuse(level, Y5_FLOAT32, 2311); /* streamed */
    for (size_t i = 0; i < sizeof(counted) / sizeof(counted[0]); i++) {
        race_sparsity(level, counted[i]);
    }
    for (int32_t variant = 0; variant < Y5_SCALE_VARIANTS; variant += 3) {
        race_scale_img(level, variant, variant % 2 == 1);
    }
}
