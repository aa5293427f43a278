/* A CUDA driver that has one device and does nothing: with it in the library, the launchers run as
 * they are, up to the driver. It notes when they came, and when they launched. */
#define _POSIX_C_SOURCE 199309L /* clock_gettime */

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define NOTHING(name, ...)                                                                         \
    EXPORT int name(__VA_ARGS__);                                                                  \
    int name(__VA_ARGS__)                                                                          \
    {                                                                                              \
        return 0;                                                                                  \
    }
/* One that gives something out. */
#define GIVES(name, type, value, ...)                                                              \
    EXPORT int name(type *given, ##__VA_ARGS__);                                                   \
    int name(type *given, ##__VA_ARGS__)                                                           \
    {                                                                                              \
        *given = value;                                                                            \
        return 0;                                                                                  \
    }

/* Of the last call, in nanoseconds of CLOCK_MONOTONIC. */
typedef struct {
    int64_t launches; /* counted */
    int64_t entered_ns;
    int64_t launched_ns;
} null_record;

static null_record record;
static char something[1];

EXPORT null_record *null_record_get(void);
EXPORT extern const unsigned char y5_cuda_image[];
const unsigned char y5_cuda_image[] = "no kernels";

null_record *
null_record_get(void)
{
    return &record;
}

static int64_t
now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

NOTHING(cuInit, unsigned int flags)
GIVES(cuDriverGetVersion, int, 13000)
GIVES(cuDeviceGetCount, int, 1)
GIVES(cuDeviceGet, int, 0, int number)
GIVES(cuDeviceGetAttribute, int, 132, int attribute, int device)
GIVES(cuDevicePrimaryCtxRetain, void *, something, int device)
GIVES(cuCtxPopCurrent_v2, void *, something)
NOTHING(cuThreadExchangeStreamCaptureMode, int *mode)
GIVES(cuModuleLoadData, void *, something, const void *image)
NOTHING(cuModuleUnload, void *module)
GIVES(cuModuleGetFunction, void *, something, void *module, const char *name)
GIVES(cuOccupancyMaxActiveBlocksPerMultiprocessor, int, 4, void *function, int threads,
      size_t shared_bytes)
NOTHING(cuGetErrorName, int code, const char **name)
NOTHING(cuGetErrorString, int code, const char **text)
NOTHING(cuMemsetD8Async, uintptr_t data, unsigned char value, size_t bytes, void *stream)

EXPORT int cuCtxPushCurrent_v2(void *context);
int
cuCtxPushCurrent_v2(void *context)
{
    (void)context;
    record.entered_ns = now_ns();
    return 0;
}

EXPORT int cuLaunchKernel(void *function, unsigned int x, unsigned int y, unsigned int z,
                          unsigned int threads, unsigned int rows, unsigned int planes,
                          unsigned int shared_bytes, void *stream, void **arguments, void **extra);
int
cuLaunchKernel(void *function, unsigned int x, unsigned int y, unsigned int z, unsigned int threads,
               unsigned int rows, unsigned int planes, unsigned int shared_bytes, void *stream,
               void **arguments, void **extra)
{
    (void)function, (void)x, (void)y, (void)z, (void)threads, (void)rows, (void)planes;
    (void)shared_bytes, (void)stream, (void)arguments, (void)extra;
    record.launches++;
    record.launched_ns = now_ns();
    return 0;
}
