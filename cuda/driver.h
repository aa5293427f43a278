/* CUDA's driver as the launchers see it: found when it is first needed, since a machine may have
 * none, and nothing here is to be of one release of CUDA; its devices, with the kernels loaded; its
 * errors as sentences. Knows no operation. */
#ifndef Y5_DRIVER_H
#define Y5_DRIVER_H

#include "grid.h"
#include "kernels.h"
#include "y5_cuda.h"

#include <stdatomic.h>
#include <stddef.h>

/* X(name here, its symbol, its arguments), with the driver's handles as pointers. */
#define Y5_DRIVER_FUNCTIONS(X)                                                                     \
    X(start, cuInit, (unsigned int flags))                                                         \
    X(version, cuDriverGetVersion, (int *version))                                                 \
    X(error_name, cuGetErrorName, (int code, const char **name))                                   \
    X(error_text, cuGetErrorString, (int code, const char **text))                                 \
    X(count_devices, cuDeviceGetCount, (int *count))                                               \
    X(get_device, cuDeviceGet, (int *device, int number))                                          \
    X(get_attribute, cuDeviceGetAttribute, (int *value, int attribute, int device))                \
    X(retain, cuDevicePrimaryCtxRetain, (void **context, int device))                              \
    X(push, cuCtxPushCurrent_v2, (void *context))                                                  \
    X(pop, cuCtxPopCurrent_v2, (void **context))                                                   \
    X(exchange_capture_mode, cuThreadExchangeStreamCaptureMode, (int *mode))                       \
    X(load_module, cuModuleLoadData, (void **module, const void *image))                           \
    X(unload_module, cuModuleUnload, (void *module))                                               \
    X(get_function, cuModuleGetFunction, (void **function, void *module, const char *name))        \
    X(occupancy, cuOccupancyMaxActiveBlocksPerMultiprocessor,                                      \
      (int *blocks, void *function, int threads, size_t shared_bytes))                             \
    X(clear, cuMemsetD8Async, (uintptr_t data, unsigned char value, size_t bytes, void *stream))   \
    X(launch, cuLaunchKernel,                                                                      \
      (void *function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,              \
       unsigned int block_x, unsigned int block_y, unsigned int block_z,                           \
       unsigned int shared_bytes, void *stream, void **arguments, void **extra))

enum {
#define X(name) KERNEL_##name,
    Y5_KERNELS(X)
#undef X
        KERNELS
};

/* A device with the kernels loaded into its primary context, which is the one torch uses. */
typedef struct y5_cuda_device {
    void *context;
    void *module;
    void *functions[KERNELS];
    int64_t resident[KERNELS];     /* blocks of the kernel that the device runs at once */
    atomic_bool stale;             /* the context is no more */
    struct y5_cuda_device *before; /* a stale one, which others may still be looking at */
} y5_cuda_device;

/* A call that is being served: its device's context is this thread's current one. */
typedef struct {
    const y5_cuda_where *where;
    y5_cuda_device *device;
    y5_cuda_error *error;
} y5_cuda_call;

/* Fills `error` and returns `status`. */
__attribute__((format(printf, 3, 4))) y5_cuda_status
y5_cuda_fail(y5_cuda_error *error, y5_cuda_status status, const char *format, ...);

/* Makes the device current for y5_cuda_launch() and y5_cuda_clear(), and loads the kernels where
 * nobody did. y5_cuda_leave() must follow where it has returned Y5_CUDA_OK. */
y5_cuda_status y5_cuda_enter(y5_cuda_call *call, const y5_cuda_where *where, y5_cuda_error *error);

/* Makes the device current that was before, and returns `status`. */
y5_cuda_status y5_cuda_leave(y5_cuda_status status);

/* Launches a kernel on the call's stream; `attempt` names it in a sentence. */
y5_cuda_status y5_cuda_launch(const y5_cuda_call *call, int kernel, const char *attempt,
                              y5_grid grid, void **arguments);

/* Has memory of the device cleared, on the call's stream. */
y5_cuda_status y5_cuda_clear(const y5_cuda_call *call, const char *attempt, void *data,
                             int64_t bytes);

#endif
