/* Runs the CUDA library's kernels without Python and torch, so that compute-sanitizer can watch
 * them: gpu_kernels LIBRARY DRIVER            lists of odd sizes and alignments, with ties
 *     gpu_kernels LIBRARY DRIVER overrun    a tensor that is shorter than it says, to be reported
 * Every tensor has memory of its own, of exactly its size. Ends with status 1 where a call fails or
 * the first average is wrong. */
#include "y5_cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 160

/* What is needed of the driver beside the library's own use of it. */
#define DRIVER_FUNCTIONS(X)                                                                        \
    X(cuInit, (unsigned int flags))                                                                \
    X(cuDevicePrimaryCtxRetain, (void **context, int device))                                      \
    X(cuCtxSetCurrent, (void *context))                                                            \
    X(cuMemAlloc_v2, (uintptr_t * data, size_t bytes))                                             \
    X(cuMemcpyHtoD_v2, (uintptr_t to, const void *from, size_t bytes))                             \
    X(cuMemcpyDtoH_v2, (void *to, uintptr_t from, size_t bytes))                                   \
    X(cuCtxSynchronize, (void))

typedef struct {
#define X(name, arguments) int(*name) arguments;
    DRIVER_FUNCTIONS(X)
#undef X
} functions;

static functions driver;
static const y5_cuda_api *api;
static const y5_cuda_where here = {NULL, 0, 0}; /* the default stream */
static const double decay = 0.75;

static void
stop(const char *what, int code, const char *words)
{
    fprintf(stderr, "%s: %d %s\n", what, code, words);
    exit(1);
}

/* One call of the driver. */
#define CU(name, ...)                                                                              \
    do {                                                                                           \
        int code = driver.name(__VA_ARGS__);                                                       \
        if (code != 0) {                                                                           \
            stop(#name, code, "");                                                                 \
        }                                                                                          \
    } while (0)

/* One call of the library. */
#define CALL(function, ...)                                                                        \
    do {                                                                                           \
        y5_cuda_error error;                                                                       \
        y5_cuda_status status = api->function(__VA_ARGS__, &error);                                \
        if (status != Y5_CUDA_OK) {                                                                \
            stop(#function, (int)status, error.message);                                           \
        }                                                                                          \
    } while (0)

static uint32_t
random_bits(void)
{
    static uint32_t seed = 12345;
    return seed = seed * 1664525U + 1013904223U;
}

/* Multiples of 1/64 from -2 on: few values, so that many are equal. */
static float
random_value(void)
{
    return (float)((int)(random_bits() >> 24) - 128) / 64.0F;
}

static void *
allocate(size_t bytes)
{
    uintptr_t data = 0;
    CU(cuMemAlloc_v2, &data, bytes);
    return (void *)data;
}

/* Elements on the device, `skipped` of them in front, so that addresses are odd. Every type holds
 * the values, float16 other ones. */
static void *
tensor(int64_t numel, y5_dtype dtype, int64_t skipped)
{
    size_t width = y5_dtype_bytes(dtype);
    size_t bytes = (size_t)(numel + skipped) * width;
    char *values = malloc(bytes);
    char *data = allocate(bytes);
    for (int64_t i = 0; values != NULL && i < numel + skipped; i++) {
        float value = random_value();
        double wide = value;
        uint32_t word = 0;
        memcpy(&word, &value, sizeof(word));
        uint16_t half = (uint16_t)(word >> 16);
        const void *element = width == 8 ? (void *)&wide : width == 4 ? (void *)&value : &half;
        memcpy(values + (size_t)i * width, element, width);
    }
    CU(cuMemcpyHtoD_v2, (uintptr_t)data, values, bytes);
    free(values);
    return data + (size_t)skipped * width;
}

static const int64_t sizes[] = {1, 7, 64, 1023, 4096, 4097, 12289, 40000};

/* The first element of a pair as one update leaves it. */
static void
check_average(const y5_ema_pair *pair)
{
    float before = 0;
    float source = 0;
    float after = 0;
    CU(cuMemcpyDtoH_v2, &before, (uintptr_t)pair->average, sizeof(before));
    CU(cuMemcpyDtoH_v2, &source, (uintptr_t)pair->source, sizeof(source));
    CALL(ema_update, &here, pair, 1, decay);
    CU(cuCtxSynchronize);
    CU(cuMemcpyDtoH_v2, &after, (uintptr_t)pair->average, sizeof(after));
    if (after != 0.75F * before + 0.25F * source) { /* exact in these */
        stop("ema_update", 0, "a wrong average");
    }
}

/* Pairs of one type, or with `mixed` of any two. */
static void
average(y5_dtype dtype, bool mixed)
{
    y5_ema_pair pairs[MOST];
    for (int64_t i = 0; i < MOST; i++) {
        y5_dtype to = mixed ? (y5_dtype)(random_bits() >> 30) : dtype;
        y5_dtype from = mixed ? (y5_dtype)(random_bits() >> 30) : dtype;
        int64_t numel = sizes[i % 8];
        pairs[i] =
            (y5_ema_pair){tensor(numel, to, i % 3), tensor(numel, from, i % 2), numel, to, from};
    }
    if (dtype == Y5_FLOAT32 && !mixed) {
        check_average(&pairs[0]);
    }
    CALL(ema_update, &here, pairs, 20, decay);
    CALL(ema_update, &here, pairs, MOST, decay);
}

static void
count_and_prune(void)
{
    enum { LAYERS = 40 };
    y5_elements items[LAYERS];
    y5_prune_layer layers[LAYERS];
    for (int64_t i = 0; i < LAYERS; i++) {
        y5_dtype dtype = (y5_dtype)(i % Y5_FLOATING_COUNT);
        int64_t numel = sizes[i % 8];
        void *weights = tensor(numel, dtype, i % 3);
        items[i] = (y5_elements){weights, numel, dtype};
        layers[i] = (y5_prune_layer){
            weights, tensor(numel, dtype, i % 2), numel, numel * (i % 7) / 6, dtype, false};
    }
    int64_t *zeros = allocate(LAYERS * sizeof(*zeros));
    CALL(sparsity_count, &here, items, LAYERS, zeros, LAYERS);
    CALL(sparsity_sum, &here, zeros, LAYERS, Y5_FLOAT32, allocate(sizeof(float)));
    CALL(sparsity_sum, &here, zeros, LAYERS, Y5_FLOAT64, allocate(sizeof(double)));
    CALL(sparsity_count, &here, items, LAYERS, zeros, 1);
    int64_t bytes = api->prune_workspace_bytes(layers, LAYERS);
    void *workspace = allocate((size_t)bytes);
    for (int32_t i = 0; i < 3; i++) { /* again, with what is left in the workspace */
        CALL(prune, &here, layers, LAYERS, workspace, bytes);
    }
}

static void
fuse(void)
{
    enum { PAIRS = 24 };
    y5_fuse_pair pairs[PAIRS];
    for (int64_t i = 0; i < PAIRS; i++) {
        y5_dtype dtype = (y5_dtype)(i % Y5_FLOATING_COUNT);
        int64_t rows = 1 + i * 3;
        int64_t columns = i % 5 == 4 ? 5000 : 1 + i * 7;
        pairs[i] = (y5_fuse_pair){tensor(rows * columns, dtype, i % 2),
                                  i % 2 ? tensor(rows, dtype, 0) : NULL,
                                  tensor(rows, dtype, 1),
                                  tensor(rows, dtype, 0),
                                  tensor(rows, dtype, 0),
                                  tensor(rows, dtype, 0),
                                  tensor(rows * columns, dtype, 0),
                                  tensor(rows, dtype, 0),
                                  1e-3,
                                  rows,
                                  columns,
                                  dtype,
                                  dtype};
    }
    CALL(fuse, &here, pairs, PAIRS, allocate(PAIRS * sizeof(int32_t)));
}

static void
resize(y5_dtype dtype, int64_t interleaved)
{
    const y5_axis rows = {37, 30, 64};
    const y5_axis columns = {53, 43, 64};
    y5_scale_img job = {
        .image = tensor(6 * interleaved * rows.input * columns.input, dtype, 0),
        .output = tensor(6 * interleaved * rows.output * columns.output, dtype, 0),
        .planes = 6,
        .interleaved = interleaved,
        .channels = interleaved > 1 ? interleaved : 3,
        .rows = rows,
        .columns = columns,
        .dtype = dtype,
        .variant = Y5_CUDA_SCALE_LIKELY,
    };
    CALL(scale_img, &here, &job);
}

/* One element more than there is memory for. */
static void
overrun(void)
{
    int64_t *zeros = allocate(sizeof(*zeros));
    y5_elements item = {tensor(4095, Y5_FLOAT32, 0), 4096, Y5_FLOAT32};
    CALL(sparsity_count, &here, &item, 1, zeros, 1);
}

static void *
find(const char *path, void *library, const char *symbol)
{
    void *found = library != NULL ? dlsym(library, symbol) : NULL;
    if (found == NULL) {
        stop(path, 0, dlerror());
    }
    return found;
}

static void
start(const char *path, const char *driver_path)
{
    void *context = NULL;
    void *opened = dlopen(driver_path, RTLD_NOW | RTLD_GLOBAL);
#define X(name, arguments) *(void **)&driver.name = find(driver_path, opened, #name);
    DRIVER_FUNCTIONS(X)
#undef X
    y5_cuda_get_api_function get = NULL;
    *(void **)&get = find(path, dlopen(path, RTLD_NOW), Y5_CUDA_SYMBOL);
    api = get();
    CU(cuInit, 0);
    CU(cuDevicePrimaryCtxRetain, &context, 0);
    CU(cuCtxSetCurrent, context);
    CALL(check_device, 0);
}

int
main(int argc, char **argv)
{
    if (argc < 3) {
        stop(argv[0], argc, "arguments; wanted are LIBRARY DRIVER [overrun]");
    }
    start(argv[1], argv[2]);
    if (argc > 3) {
        overrun();
    } else {
        for (int32_t dtype = 0; dtype < Y5_FLOATING_COUNT; dtype++) {
            average((y5_dtype)dtype, false);
        }
        average(Y5_FLOAT32, true);
        count_and_prune();
        fuse();
        static const y5_dtype images[] = {Y5_FLOAT32, Y5_FLOAT16, Y5_BFLOAT16};
        for (int32_t i = 0; i < 6; i++) {
            resize(images[i % 3], i < 3 ? 1 : 5);
        }
    }
    CU(cuCtxSynchronize);
    printf("all kernels ran\n");
    return 0;
}
