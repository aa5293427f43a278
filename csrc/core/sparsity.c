/* Counting zeros: cuts the tensors into tasks of equal size and hands them to the active level.
 * Knows nothing of models. */
#include "core/ops.h"
#include "core/streams.h"

#include <stdatomic.h>
#include <string.h>

/* Elements of a task, 256 KiB in float32: large enough that drawing it costs nothing. */
#define TASK_ELEMENTS ((int64_t)64 * 1024)

typedef int64_t (*count_kernel)(const char *data, int64_t numel, y5_dtype dtype);

#define Y5_KERNEL_FILE "core/sparsity.inc"
#include "core/levels.h"

static const count_kernel kernels[Y5_LEVEL_COUNT] = Y5_EACH_LEVEL(count_zeros);

typedef struct {
    const y5_elements *items;
    _Atomic int64_t *zeros;
    count_kernel kernel;
} count_work;

static int64_t
numel_of(int64_t item, const void *context)
{
    return ((const count_work *)context)->items[item].numel;
}

static void
count_part(int64_t item, int64_t first, int64_t last, void *context)
{
    const count_work *work = context;
    y5_dtype dtype = work->items[item].dtype;
    const char *data = work->items[item].data;
    data += first * (int64_t)y5_dtype_bytes(dtype);
    int64_t zeros = work->kernel(data, last - first, dtype);
    atomic_fetch_add_explicit(&work->zeros[item], zeros, memory_order_relaxed);
}

void
y5_sparsity_count(const y5_run *run, const y5_elements *items, int64_t count,
                  _Atomic int64_t *zeros)
{
    count_work work = {items, zeros, kernels[run->level]};
    y5_parallel_items(&run->pool, count, numel_of, TASK_ELEMENTS, count_part, &work);
}

int64_t
y5_sparsity_count_tensor(y5_level level, const y5_tensor *tensor)
{
    if (y5_tensor_is_dense(tensor)) {
        return kernels[level](tensor->data, tensor->numel, tensor->dtype);
    }
    int64_t bytes = (int64_t)y5_dtype_bytes(tensor->dtype);
    int64_t inner = tensor->ndim - 1;
    bool rows = tensor->strides[inner] == 1; /* whole rows, or one element at a time */
    int64_t step = rows ? tensor->shape[inner] : 1;
    int64_t zeros = 0;
    for (int64_t element = 0; element < tensor->numel; element += step) {
        int64_t offset = y5_offset_of(element, tensor->ndim, tensor->shape, tensor->strides);
        zeros += kernels[level]((const char *)tensor->data + offset * bytes, step, tensor->dtype);
    }
    return zeros;
}
