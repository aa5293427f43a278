/* The test programs' common tools. Knows the core's boundary types only, none of its arithmetic. */
#include "support.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define MAX_THREADS 8

const small_float float16 = {10, 15};
const small_float bfloat16 = {7, 127};

bool brief = false;
bool simulated = false;

static uint64_t random_state = 0;

/* What free_all() has to free. */
static void **allocated = NULL;
static int64_t allocated_count = 0;
static int64_t allocated_room = 0;

void
seed_random(const char *group)
{
    random_state = 0xcbf29ce484222325U; /* FNV-1a, Fowler, Noll and Vo */
    for (; *group != 0; group++) {
        random_state = (random_state ^ (unsigned char)*group) * 0x100000001b3U;
    }
}

/* splitmix64, Steele, Lea and Flood 2014. */
uint64_t
random_bits(void)
{
    CHECK(random_state != 0, "seed_random() comes first");
    random_state += 0x9e3779b97f4a7c15U;
    uint64_t bits = random_state;
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9U;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebU;
    return bits ^ bits >> 31;
}

int64_t
random_between(int64_t low, int64_t high)
{
    return low + (int64_t)(random_bits() % (uint64_t)(high - low + 1));
}

void *
allocate(int64_t bytes)
{
    void *memory = malloc((size_t)bytes);
    CHECK(memory != NULL || bytes == 0, "%lld bytes", (long long)bytes);
    if (allocated_count == allocated_room) {
        allocated_room = 2 * allocated_room + 64;
        allocated = realloc((void *)allocated, (size_t)allocated_room * sizeof(*allocated));
        CHECK(allocated != NULL, "%lld addresses", (long long)allocated_room);
    }
    allocated[allocated_count++] = memory;
    return memory;
}

void
free_all(void)
{
    while (allocated_count > 0) {
        free(allocated[--allocated_count]);
    }
}

double
small_float_value(uint16_t bits, const small_float *type)
{
    int32_t fraction = bits & ((1 << type->fraction_bits) - 1);
    int32_t exponent = (bits & 0x7fff) >> type->fraction_bits;
    double magnitude = NAN;
    if (exponent == 0) {
        magnitude = ldexp(fraction, 1 - type->bias - type->fraction_bits);
    } else if (exponent <= 2 * type->bias) {
        int32_t whole = fraction + (1 << type->fraction_bits);
        magnitude = ldexp(whole, exponent - type->bias - type->fraction_bits);
    } else if (fraction == 0) {
        magnitude = INFINITY;
    }
    return bits & 0x8000 ? -magnitude : magnitude;
}

uint16_t
small_float_bits(double value, const small_float *type)
{
    int32_t infinity = (2 * type->bias + 1) << type->fraction_bits;
    int32_t sign = signbit(value) ? 0x8000 : 0;
    if (isnan(value)) {
        return (uint16_t)(sign | infinity | 1 << (type->fraction_bits - 1));
    }
    if (value == 0 || isinf(value)) {
        return (uint16_t)(sign | (value == 0 ? 0 : infinity));
    }
    int32_t exponent = 0;
    (void)frexp(value, &exponent); /* |value| lies in 2^(exponent - 1) ... 2^exponent */
    exponent = exponent - 1 < 1 - type->bias ? 1 - type->bias : exponent - 1;
    /* The value in units of the last place, rounded. A carry into the next binade adds up. */
    int32_t places = (int32_t)nearbyint(ldexp(fabs(value), type->fraction_bits - exponent));
    int32_t biased = exponent + type->bias - 1;
    int64_t bits = ((int64_t)biased << type->fraction_bits) + places;
    return (uint16_t)(sign | (int32_t)(bits < infinity ? bits : infinity));
}

double
get_element(const void *data, int64_t index, y5_dtype dtype)
{
    const char *bytes = data;
    float narrow = 0;
    double wide = 0;
    uint16_t bits = 0;
    switch (dtype) {
    case Y5_FLOAT64:
        memcpy(&wide, bytes + 8 * index, 8);
        return wide;
    case Y5_FLOAT32:
        memcpy(&narrow, bytes + 4 * index, 4);
        return (double)narrow;
    default:
        memcpy(&bits, bytes + 2 * index, 2);
        return small_float_value(bits, dtype == Y5_FLOAT16 ? &float16 : &bfloat16);
    }
}

void
set_element(void *data, int64_t index, y5_dtype dtype, double value)
{
    char *bytes = data;
    float narrow = (float)value;
    uint16_t bits = 0;
    switch (dtype) {
    case Y5_FLOAT64:
        memcpy(bytes + 8 * index, &value, 8);
        break;
    case Y5_FLOAT32:
        memcpy(bytes + 4 * index, &narrow, 4);
        break;
    default:
        bits = small_float_bits(value, dtype == Y5_FLOAT16 ? &float16 : &bfloat16);
        memcpy(bytes + 2 * index, &bits, 2);
    }
}

double
round_to(double value, y5_dtype dtype)
{
    double held = 0;
    set_element(&held, 0, dtype, value);
    return get_element(&held, 0, dtype);
}

void
fill(void *data, int64_t count, y5_dtype dtype)
{
    static const double special[] = {0.0,   -0.0, 1.0,  -1.0,     1e-7,      -6e-8, 1e-40, -1e-45,
                                     65504, 7e4,  3e38, INFINITY, -INFINITY, NAN,   1e-310};
    for (int64_t i = 0; i < count; i++) {
        uint64_t bits = random_bits();
        double value = ldexp((double)(int64_t)bits, (int)(bits % 28) - 83);
        if (bits % 7 == 0) {
            value = special[bits / 7 % (sizeof(special) / sizeof(special[0]))];
        }
        set_element(data, i, dtype, value);
    }
}

bool
same_element(const void *a, const void *b, int64_t index, y5_dtype dtype)
{
    int64_t bytes = dtype == Y5_FLOAT64 ? 8 : dtype == Y5_FLOAT32 ? 4 : 2;
    const char *first = (const char *)a + index * bytes;
    const char *second = (const char *)b + index * bytes;
    return memcmp(first, second, (size_t)bytes) == 0 ||
           (isnan(get_element(first, 0, dtype)) && isnan(get_element(second, 0, dtype)));
}

void
check_same_at(const char *file, int line, const void *got, const void *expected, int64_t numel,
              y5_dtype dtype, const char *what)
{
    if (numel == 0 || memcmp(got, expected, (size_t)numel * y5_dtype_bytes(dtype)) == 0) {
        return; /* as nearly always */
    }
    for (int64_t i = 0; i < numel; i++) {
        if (!same_element(got, expected, i, dtype)) {
            fprintf(stderr, "%s:%d: %s, element %d of %d of dtype %d: %a, not %a\n", file, line,
                    what, (int)i, (int)numel, dtype, get_element(got, i, dtype),
                    get_element(expected, i, dtype));
            exit(1);
        }
    }
}

typedef struct {
    int64_t begin;
    int64_t end;
    void (*body)(int64_t, int64_t, void *);
    void *context;
} part;

static _Atomic int32_t pool_threads = 1;
static _Atomic int64_t calls = 0;

static void *
run_part(void *argument)
{
    const part *mine = argument;
    mine->body(mine->begin, mine->end, mine->context);
    return NULL;
}

void
pool_set_threads(int32_t threads)
{
    CHECK(threads >= 1 && threads <= MAX_THREADS, "%d threads", threads);
    pool_threads = threads;
}

int64_t
pool_calls(void)
{
    return calls;
}

int32_t
pool_run(int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void *),
         void *context)
{
    CHECK(begin == 0 && end >= 1 && grain >= 1, "%lld to %lld", (long long)begin, (long long)end);
    calls++;
    int64_t most = (end + grain - 1) / grain;
    int64_t threads = most < pool_threads ? most : pool_threads;
    pthread_t started[MAX_THREADS];
    part parts[MAX_THREADS];
    for (int64_t i = 0; i < threads; i++) {
        parts[i] = (part){end * i / threads, end * (i + 1) / threads, body, context};
        CHECK(pthread_create(&started[i], NULL, run_part, &parts[i]) == 0, "thread %d", (int)i);
    }
    for (int64_t i = 0; i < threads; i++) {
        CHECK(pthread_join(started[i], NULL) == 0, "thread %d", (int)i);
    }
    return 0;
}

int32_t
pool_refuse(int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void *),
            void *context)
{
    (void)begin;
    (void)end;
    (void)grain;
    (void)body;
    (void)context;
    return 1;
}

y5_tensor
random_shape(int32_t max_dims, int64_t low, int64_t high)
{
    y5_tensor tensor = {.numel = 1, .dtype = Y5_FLOAT32, .device = Y5_CPU};
    tensor.ndim = (int32_t)random_between(0, max_dims);
    for (int32_t i = 0; i < tensor.ndim; i++) {
        tensor.shape[i] = random_between(low, high);
        tensor.numel *= tensor.shape[i];
    }
    return tensor;
}

int64_t
offset_of(const y5_tensor *tensor, int64_t index)
{
    int64_t offset = 0;
    for (int32_t i = tensor->ndim - 1; i >= 0; i--) {
        offset += index % tensor->shape[i] * tensor->strides[i];
        index /= tensor->shape[i];
    }
    return offset;
}

int64_t *
all_offsets(const y5_tensor *tensor, int64_t *lowest, int64_t *highest)
{
    int64_t *offsets = allocate((tensor->numel + 1) * (int64_t)sizeof(int64_t));
    *lowest = 0;
    *highest = 0;
    for (int64_t i = 0; i < tensor->numel; i++) {
        offsets[i] = offset_of(tensor, i);
        *lowest = offsets[i] < *lowest ? offsets[i] : *lowest;
        *highest = offsets[i] > *highest ? offsets[i] : *highest;
    }
    return offsets;
}
