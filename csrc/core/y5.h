/* The types that cross a boundary inside the project: dtypes, tensors, spans, status, error.
 * Plain data in C11 and C++; knows neither Python nor torch nor DLPack. */
#ifndef Y5_H
#define Y5_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Element types, with numbers that are part of the CUDA library's ABI. */
typedef int32_t y5_dtype;
enum {
    Y5_FLOAT32,
    Y5_FLOAT64,
    Y5_FLOAT16,
    Y5_BFLOAT16,
    Y5_FLOATING_COUNT, /* the types above are those that ema, fuse and prune compute in */
    Y5_COMPLEX32 = Y5_FLOATING_COUNT,
    Y5_COMPLEX64,
    Y5_COMPLEX128,
    Y5_INT8, /* also bool and uint8: a zero is a zero */
    Y5_INT16,
    Y5_INT32,
    Y5_INT64,
    Y5_FLOAT8,      /* sign in the top bit, -0 exists: e4m3fn, e5m2 */
    Y5_FLOAT8_FNUZ, /* 0x80 is NaN, one zero only: e4m3fnuz, e5m2fnuz */
    Y5_DTYPE_COUNT
};

/* Bytes of one element. */
static inline size_t
y5_dtype_bytes(y5_dtype dtype)
{
    static const uint8_t bytes[] = {4, 8, 2, 2, 4, 8, 16, 1, 2, 4, 8, 1, 1};
    return bytes[dtype];
}

/* Where the elements live. */
typedef enum { Y5_CPU, Y5_CUDA } y5_device;

/* Dimensions a tensor may have here; torch models stay far below. */
#define Y5_MAX_DIMS 12

/* A tensor whose memory somebody else owns and keeps alive. */
typedef struct {
    void *data; /* NULL only where numel is 0 */
    int64_t numel;
    y5_dtype dtype;
    y5_device device;
    int32_t device_index;
    int32_t ndim;
    int64_t shape[Y5_MAX_DIMS];
    int64_t strides[Y5_MAX_DIMS]; /* in elements; 0 and negative are possible */
} y5_tensor;

typedef enum {
    Y5_OK = 0,
    Y5_UNSUPPORTED,   /* nothing was changed; the caller should take torch's own operations */
    Y5_BAD_TYPE,      /* becomes TypeError */
    Y5_BAD_VALUE,     /* becomes ValueError */
    Y5_BAD_BUFFER,    /* becomes BufferError */
    Y5_NO_MEMORY,     /* becomes MemoryError */
    Y5_DEVICE_FAILED, /* becomes RuntimeError */
    Y5_PYTHON_RAISED, /* a Python exception is set already */
    Y5_SKIP,          /* only from a plan's take(): this tensor and the next are not wanted */
} y5_status;

/* What went wrong: the argument or entry concerned, and a sentence. */
typedef struct {
    char argument[128];
    char message[384];
} y5_error;

#if defined(__GNUC__)
#define Y5_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define Y5_PRINTF(text, first)
#endif

/* Fills `error` (either text may be cut to fit) and returns `status`. */
y5_status y5_fail(y5_error *error, y5_status status, const char *argument, const char *format, ...)
    Y5_PRINTF(4, 5);

/* True for the types torch calls floating point, float8 among them; false for complex ones. */
bool y5_dtype_is_floating(y5_dtype dtype);

/* True where the elements lie in memory in the order of their indices, without gaps; or those of 4
 * dimensions pixel by pixel, with all channels (the second dimension) side by side. Strides of
 * dimensions of size 1 do not matter, and an empty tensor is both. */
bool y5_tensor_is_contiguous(const y5_tensor *tensor);
bool y5_tensor_is_channels_last(const y5_tensor *tensor);

/* True where the elements fill one gapless block, each once, in whatever order of dimensions. */
bool y5_tensor_is_dense(const y5_tensor *tensor);

/* True where both have the same shape and walk their memory in the same order. */
bool y5_tensor_same_order(const y5_tensor *a, const y5_tensor *b);

/* How many elements behind the first one an element lies that has this index in the order of
 * indices. */
static inline int64_t
y5_offset_of(int64_t index, int32_t ndim, const int64_t *shape, const int64_t *strides)
{
    int64_t offset = 0;
    for (int32_t i = ndim - 1; i >= 0; i--) {
        offset += index % shape[i] * strides[i];
        index /= shape[i];
    }
    return offset;
}

/* The half-open range of addresses the elements touch. Both are 0 for an empty tensor. */
void y5_tensor_range(const y5_tensor *tensor, uintptr_t *begin, uintptr_t *end);

#endif
