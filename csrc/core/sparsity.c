/* Counting zeros: cuts the tensors into tasks of equal size and hands them to the active level.
 * Knows nothing of models. */
#include "core/ops.h"

#include <stdatomic.h>
#include <string.h>

/* Elements of a task, 256 KiB in float32: large enough that drawing it costs nothing. */
#define TASK_ELEMENTS ((int64_t)64 * 1024)

/* How a type spells zero: all bits under the mask are clear in each of `parts` words. */
typedef struct {
    int32_t word_bytes;
    int32_t parts;
    uint64_t mask;
} zero_pattern;

static const zero_pattern patterns[Y5_DTYPE_COUNT] = {
    [Y5_FLOAT32] = {4, 1, 0x7fffffffU},
    [Y5_FLOAT64] = {8, 1, 0x7fffffffffffffffU},
    [Y5_FLOAT16] = {2, 1, 0x7fffU},
    [Y5_BFLOAT16] = {2, 1, 0x7fffU},
    [Y5_COMPLEX32] = {4, 1, 0x7fff7fffU},
    [Y5_COMPLEX64] = {8, 1, 0x7fffffff7fffffffU},
    [Y5_COMPLEX128] = {8, 2, 0x7fffffffffffffffU},
    [Y5_INT8] = {1, 1, 0xffU},
    [Y5_INT16] = {2, 1, 0xffffU},
    [Y5_INT32] = {4, 1, 0xffffffffU},
    [Y5_INT64] = {8, 1, 0xffffffffffffffffU},
    [Y5_FLOAT8] = {1, 1, 0x7fU},
    [Y5_FLOAT8_FNUZ] = {1, 1, 0xffU},
};

typedef int64_t (*count_kernel)(const char *data, int64_t numel, const zero_pattern *pattern);

#define Y5_KERNEL_FILE "core/sparsity.inc"
#include "core/levels.h"

static const count_kernel kernels[Y5_LEVEL_COUNT] = Y5_EACH_LEVEL(count_zeros);

typedef struct {
    y5_zero_count *items;
    count_kernel kernel;
} count_work;

static void
count_part(int64_t item, int64_t first, int64_t last, void *context)
{
    const count_work *work = context;
    y5_zero_count *counted = &work->items[item];
    const char *data = counted->data;
    data += first * (int64_t)y5_dtype_bytes(counted->dtype);
    int64_t zeros = work->kernel(data, last - first, &patterns[counted->dtype]);
    atomic_fetch_add_explicit(&counted->zeros, zeros, memory_order_relaxed);
}

void
y5_sparsity_count(const y5_run *run, y5_zero_count *items, const int64_t *starts, int64_t count)
{
    count_work work = {items, kernels[run->level]};
    y5_parallel_items(&run->pool, starts, count, TASK_ELEMENTS, count_part, &work);
}

int64_t
y5_sparsity_count_tensor(y5_level level, const y5_tensor *tensor)
{
    const zero_pattern *pattern = &patterns[tensor->dtype];
    if (y5_tensor_is_dense(tensor)) {
        return kernels[level](tensor->data, tensor->numel, pattern);
    }
    int64_t bytes = (int64_t)y5_dtype_bytes(tensor->dtype);
    int64_t inner = tensor->ndim - 1;
    bool rows = tensor->strides[inner] == 1; /* whole rows, or one element at a time */
    int64_t step = rows ? tensor->shape[inner] : 1;
    int64_t zeros = 0;
    for (int64_t element = 0; element < tensor->numel; element += step) {
        int64_t rest = element;
        int64_t offset = 0;
        for (int64_t i = inner; i >= 0; i--) {
            offset += rest % tensor->shape[i] * tensor->strides[i];
            rest /= tensor->shape[i];
        }
        zeros += kernels[level]((const char *)tensor->data + offset * bytes, step, pattern);
    }
    return zeros;
}
