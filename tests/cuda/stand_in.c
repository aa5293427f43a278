/* An exchange table like torch's, through which tensors of the CPU look like tensors of CUDA device
 * 0: with it, everything that the extension does for a GPU but the kernels runs on any machine. */
#include "python/dlpack_abi.h"

#include <stddef.h>

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

static int
borrow(void *object, dlpack_tensor *out)
{
    int failed = original->borrow(object, out);
    if (failed == 0 && out->device.type == DLPACK_CPU) {
        out->device = (dlpack_device){DLPACK_CUDA, 0};
        for (int i = 0; i < elsewhere_count; i++) {
            if (out->data == elsewhere[i].data) {
                out->device = elsewhere[i].device;
            }
        }
    }
    return failed;
}

/* A stream that no function but the fake library's recorder looks at. */
static int
current_stream(int32_t device_type, int32_t device_index, void **out)
{
    *out = (void *)(uintptr_t)(0x5000 + device_index);
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
