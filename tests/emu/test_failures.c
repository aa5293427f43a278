/* What the library refuses, and what it makes of every failure of the runtime: a status, a sentence
 * that names the problem, nothing launched, the device as it was. */
#include "test_emu.h"

#include <string.h>

static float data[64];
static int64_t numbers[4];

static const y5_cuda_ema_pair good_pair = {data, data + 32, 4, Y5_CUDA_FLOAT32, Y5_CUDA_FLOAT32};
static const y5_cuda_zero_count good_item = {data, 4, Y5_CUDA_FLOAT32, 0};
static const y5_cuda_fuse_pair good_fuse = {
    data,           data, data, data, data, data, data + 16, data + 32, 1e-3, 2, 2, Y5_CUDA_FLOAT32,
    Y5_CUDA_FLOAT32};
static const y5_cuda_prune_layer good_layer = {data, data + 32, 4, 2, Y5_CUDA_FLOAT32, 0};
static const y5_cuda_scale_img good_job = {
    data, data + 32, 1, 1, 4, 4, 3, 3, 4, 4, Y5_CUDA_FLOAT32, Y5_CUDA_SCALE_LIKELY};

/* Ends the program unless the call was refused with these words, and nothing ran. */
static void
expect_refusal(y5_cuda_status status, const y5_cuda_error *error, const char *words)
{
    CHECK(status == Y5_CUDA_BAD_ARGUMENT, "%s: status %d", words, (int)status);
    CHECK(strstr(error->message, words) != NULL, "'%s' is not in '%s'", words, error->message);
    CHECK(y5_emulated()->launches == 0, "%s: launched", words);
}

/* Changes one field of a good item and expects the call to be refused. */
#define REFUSED(type, good, field, value, call, words)                                             \
    do {                                                                                           \
        type item = good;                                                                          \
        item.field = value;                                                                        \
        y5_emulated()->launches = 0;                                                               \
        y5_cuda_error error;                                                                       \
        expect_refusal(call, &error, words);                                                       \
    } while (0)

#define EMA api->ema_update(&here, &item, 1, 0.5, &error)
#define COUNT api->sparsity_count(&here, &item, 1, numbers, 1, &error)
#define FUSE api->fuse(&here, &item, 1, NULL, &error)
#define SCALE api->scale_img(&here, &item, &error)

static void
prune_refusals(void)
{
    static _Alignas(256) char workspace[1 << 16];
    int64_t bytes = api->prune_workspace_bytes(&good_layer, 1);
    CHECK(bytes > 0 && bytes <= (int64_t)sizeof(workspace) - 1, "%d bytes", (int)bytes);
#define PRUNE api->prune(&here, &item, 1, workspace, bytes, &error)
    REFUSED(y5_cuda_prune_layer, good_layer, dtype, Y5_CUDA_INT8, PRUNE, "dtype 7");
    REFUSED(y5_cuda_prune_layer, good_layer, count, 5, PRUNE, "5 of 4 weights");
    REFUSED(y5_cuda_prune_layer, good_layer, count, -1, PRUNE, "-1 of 4 weights");
    REFUSED(y5_cuda_prune_layer, good_layer, weights, NULL, PRUNE, "null");
    REFUSED(y5_cuda_prune_layer, good_layer, pruned, (char *)data + 2, PRUNE, "not aligned");
#undef PRUNE
    y5_cuda_error error;
    expect_refusal(api->prune(&here, &good_layer, 1, workspace, bytes - 1, &error), &error,
                   "workspace");
    expect_refusal(api->prune(&here, &good_layer, 1, workspace + 1, bytes, &error), &error,
                   "aligned to 256");
    expect_refusal(api->prune(&here, &good_layer, 1, NULL, bytes, &error), &error, "workspace");
}

static void
sum_refusals(void)
{
    static double sum[2];
    const struct {
        const void *zeros;
        int64_t count;
        int32_t dtype;
        void *sum;
        const char *words;
    } calls[] = {
        {numbers, 1, Y5_CUDA_FLOAT16, sum, "dtype 2"},
        {NULL, 1, Y5_CUDA_FLOAT32, sum, "zeros: 1 numbers"},
        {numbers, -1, Y5_CUDA_FLOAT32, sum, "zeros: -1 numbers"},
        {(char *)numbers + 4, 1, Y5_CUDA_FLOAT32, sum, "aligned to 8"},
        {numbers, 1, Y5_CUDA_FLOAT32, NULL, "sum: a null pointer"},
        {numbers, 1, Y5_CUDA_FLOAT64, (char *)sum + 4, "not aligned to its type"},
    };
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        y5_emulated()->launches = 0;
        y5_cuda_error error;
        expect_refusal(api->sparsity_sum(&here, calls[i].zeros, calls[i].count, calls[i].dtype,
                                         calls[i].sum, &error),
                       &error, calls[i].words);
    }
}

void
test_refusals(void)
{
    shake_machine();
    REFUSED(y5_cuda_ema_pair, good_pair, average_dtype, 4, EMA, "pairs[0]: dtypes 4 and 0");
    REFUSED(y5_cuda_ema_pair, good_pair, source_dtype, -1, EMA, "dtypes 0 and -1");
    REFUSED(y5_cuda_ema_pair, good_pair, numel, -1, EMA, "-1 elements");
    REFUSED(y5_cuda_ema_pair, good_pair, source, NULL, EMA, "null");
    REFUSED(y5_cuda_ema_pair, good_pair, average, (char *)data + 1, EMA, "not aligned");
    REFUSED(y5_cuda_zero_count, good_item, dtype, Y5_CUDA_DTYPE_COUNT, COUNT, "dtype 13");
    REFUSED(y5_cuda_zero_count, good_item, numel, (int64_t)1 << 50, COUNT, "elements");
    REFUSED(y5_cuda_zero_count, good_item, data, NULL, COUNT, "null");
    REFUSED(y5_cuda_zero_count, good_item, data, (char *)data + 2, COUNT, "not aligned");
    REFUSED(y5_cuda_fuse_pair, good_fuse, dtype, 4, FUSE, "dtype 4");
    REFUSED(y5_cuda_fuse_pair, good_fuse, fused_dtype, Y5_CUDA_FLOAT16, FUSE, "fused_dtype 2");
    REFUSED(y5_cuda_fuse_pair, good_fuse, channels, 0, FUSE, "0 channels");
    REFUSED(y5_cuda_fuse_pair, good_fuse, row_numel, (int64_t)1 << 60, FUSE, "weights");
    REFUSED(y5_cuda_fuse_pair, good_fuse, mean, NULL, FUSE, "null");
    REFUSED(y5_cuda_scale_img, good_job, dtype, Y5_CUDA_FLOAT64, SCALE, "dtype 1");
    REFUSED(y5_cuda_scale_img, good_job, variant, Y5_CUDA_SCALE_VARIANTS, SCALE, "variant 54");
    REFUSED(y5_cuda_scale_img, good_job, resized_rows, 0, SCALE, "rows and columns");
    REFUSED(y5_cuda_scale_img, good_job, input_columns, (int64_t)1 << 40, SCALE,
            "rows and columns");
    REFUSED(y5_cuda_scale_img, good_job, interleaved, 0, SCALE, "0 channels");
    REFUSED(y5_cuda_scale_img, good_job, output, NULL, SCALE, "null");
    y5_cuda_error error;
    expect_refusal(api->sparsity_count(&here, &good_item, 1, NULL, 1, &error), &error, "zeros");
    expect_refusal(api->sparsity_count(&here, &good_item, 1, numbers, 2, &error), &error, "zeros");
    sum_refusals();
    prune_refusals();
}

/* Makes one call of the runtime fail and looks at what becomes of the EMA's call, and of the next
 * one, which must not be blamed for what failed before it. */
static void
failing(const char *call, int32_t code, y5_cuda_status wanted, const char *words)
{
    y5_emulated_machine *machine = y5_emulated();
    machine->devices = 2;
    machine->current_device = 1;
    machine->failing = call;
    machine->failure = code;
    float before = data[0];
    y5_cuda_error error;
    y5_cuda_status status = api->ema_update(&here, &good_pair, 1, 0.5, &error);
    CHECK(status == wanted && error.code == code, "%s %d: status %d", call, (int)code, (int)status);
    CHECK(strstr(error.message, words) != NULL, "'%s' is not in '%s'", words, error.message);
    CHECK(machine->current_device == 1, "%s: left on device %d", call,
          (int)machine->current_device);
    CHECK(data[0] == before, "%s: wrote", call);
    machine->failing = "";
    status = api->ema_update(&here, &good_pair, 1, 0.5, &error);
    CHECK(status == Y5_CUDA_OK, "a good call after %s %d: %s", call, (int)code, error.message);
}

/* Calls of the runtime that other operations make. */
static void
failing_elsewhere(void)
{
    y5_emulated_machine *machine = y5_emulated();
    y5_cuda_error error;
    machine->failing = "cudaMemsetAsync";
    machine->failure = 1;
    CHECK(api->sparsity_count(&here, &good_item, 1, numbers, 1, &error) == Y5_CUDA_FAILED, "clear");
    machine->failing = "";
    expect_ok(api->sparsity_count(&here, &good_item, 1, numbers, 1, &error), &error, "afterwards");
}

static void
check_device_failures(void)
{
    y5_emulated_machine *machine = y5_emulated();
    y5_cuda_error error;
    expect_ok(api->check_device(1, &error), &error, "check_device");
    CHECK(api->check_device(2, &error) == Y5_CUDA_BAD_ARGUMENT, "there are two");
    CHECK(api->check_device(-1, &error) == Y5_CUDA_BAD_ARGUMENT, "device -1");
    machine->failing = "cudaFuncGetAttributes";
    machine->failure = 209;
    machine->compute_capability = 61;
    CHECK(api->check_device(0, &error) == Y5_CUDA_NO_KERNEL, "%s", error.message);
    CHECK(strstr(error.message, "sm_61") != NULL && strstr(error.message, api->architectures), "%s",
          error.message);
    machine->failing = "cudaGetDeviceCount";
    machine->failure = 35;
    machine->driver_version = 0;
    CHECK(api->check_device(0, &error) == Y5_CUDA_NO_DRIVER, "%s", error.message);
    CHECK(strstr(error.message, "no NVIDIA driver is installed") != NULL, "%s", error.message);
    machine->driver_version = 12020;
    CHECK(api->check_device(0, &error) == Y5_CUDA_NO_DRIVER, "%s", error.message);
    CHECK(strstr(error.message, "is for CUDA 12.2 and older") != NULL, "%s", error.message);
    machine->driver_version = 13000;
    machine->failing = "";
}

/* The launch happens on the tensors' device and stream, whichever device is current. */
static void
check_guard(void)
{
    y5_emulated_machine *machine = y5_emulated();
    int stream = 0;
    y5_cuda_where where = {&stream, 0, 0};
    for (int32_t current = 0; current < 2; current++) {
        machine->current_device = current;
        y5_cuda_error error;
        expect_ok(api->ema_update(&where, &good_pair, 1, 0.5, &error), &error, "guard");
        CHECK(machine->last_device == 0 && machine->last_stream == &stream, "device %d",
              (int)machine->last_device);
        CHECK(machine->current_device == current, "%d", (int)machine->current_device);
    }
}

void
test_failures(void)
{
    shake_machine();
    failing("cudaGetDevice", 35, Y5_CUDA_NO_DRIVER, "driver");
    failing("cudaGetDevice", 100, Y5_CUDA_NO_DRIVER, "no CUDA device can be used");
    failing("cudaSetDevice", 2, Y5_CUDA_NO_MEMORY, "device 0 is out of memory");
    failing("cudaSetDevice", 101, Y5_CUDA_BAD_ARGUMENT, "there is no device 0");
    failing("cudaDeviceGetAttribute", 1, Y5_CUDA_FAILED, "asking for the multiprocessors");
    failing("launch", 2, Y5_CUDA_NO_MEMORY, "ema: device 0 is out of memory");
    failing("launch", 209, Y5_CUDA_NO_KERNEL, "no kernel image for device 0, an sm_90 chip");
    failing("launch", 400, Y5_CUDA_FAILED, "the stream is not one of device 0");
    failing("launch", 709, Y5_CUDA_FAILED, "its context is gone");
    failing("launch", 700, Y5_CUDA_FAILED, "ema on device 0: what the runtime says");
    failing_elsewhere();
    check_device_failures();
    check_guard();
    y5_emulated()->current_device = 0;
    y5_emulated()->devices = 1;
}
