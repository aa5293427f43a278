/* An exchange table like torch's, through which tensors of the CPU look like tensors of CUDA device
 * 0: with it, everything that the extension does for a GPU but the kernels runs on any machine. */
#define _POSIX_C_SOURCE 199309L /* clock_gettime */

#include "python/dlpack_abi.h"

#include <stddef.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT const dlpack_exchange_table *stand_in_start(const dlpack_exchange_table *torch);
EXPORT int stand_in_except(const void *data, int32_t type, int32_t index);

static const dlpack_exchange_table *original;
static dlpack_exchange_table table;

/* Pieces of memory that are somewhere else. */
#define ELSEWHERE 8
static struct {
    const void *data;
    dlpack_device device;
} elsewhere[ELSEWHERE];
static int elsewhere_count;

/* When a call came how far, in nanoseconds of CLOCK_MONOTONIC; `borrowed` and `last` are set by who
 * wants to know. */
typedef struct {
    int64_t borrowed;  /* counted */
    int64_t last;      /* the number of the last tensor of a call */
    int64_t first_ns;  /* tensor number 1 is asked for */
    int64_t last_ns;   /* number `last` was */
    int64_t stream_ns; /* the stream is asked for */
} stand_in_times;

static stand_in_times times;

EXPORT stand_in_times *stand_in_times_get(void);

stand_in_times *
stand_in_times_get(void)
{
    return &times;
}

static int64_t
now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int
borrow(void *object, dlpack_tensor *out)
{
    times.first_ns = ++times.borrowed == 1 ? now_ns() : times.first_ns;
    int failed = original->borrow(object, out);
    if (failed == 0 && out->device.type == DLPACK_CPU) {
        out->device = (dlpack_device){DLPACK_CUDA, 0};
        for (int i = 0; i < elsewhere_count; i++) {
            if (out->data == elsewhere[i].data) {
                out->device = elsewhere[i].device;
            }
        }
    }
    times.last_ns = times.borrowed == times.last ? now_ns() : times.last_ns;
    return failed;
}

/* A stream that no function but the fake library's recorder looks at. */
static int
current_stream(int32_t device_type, int32_t device_index, void **out)
{
    *out = (void *)(uintptr_t)(0x5000 + device_index);
    times.stream_ns = now_ns();
    return device_type == DLPACK_CUDA ? 0 : -1;
}

const dlpack_exchange_table *
stand_in_start(const dlpack_exchange_table *torch)
{
    original = torch;
    table = *torch;
    table.header.previous = NULL;
    table.borrow = borrow;
    table.current_stream = current_stream;
    return &table;
}

/* Without data all is as usual; nonzero where that many pieces are elsewhere already. */
int
stand_in_except(const void *data, int32_t type, int32_t index)
{
    if (data == NULL) {
        elsewhere_count = 0;
        return 0;
    }
    if (elsewhere_count == ELSEWHERE) {
        return -1;
    }
    elsewhere[elsewhere_count].data = data;
    elsewhere[elsewhere_count++].device = (dlpack_device){type, index};
    return 0;
}
