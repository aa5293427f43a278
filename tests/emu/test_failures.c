/* What the library refuses, and what it makes of every failure of the driver: a status, a sentence
 * that names the problem, nothing launched, the device as it was. */
#include "test_emu.h"

#include <string.h>

static float data[64];
static int64_t numbers[4];

static const y5_ema_pair good_pair = {data, data + 32, 4, Y5_FLOAT32, Y5_FLOAT32};
static const y5_elements good_item = {data, 4, Y5_FLOAT32};
static const y5_fuse_pair good_fuse = {
    data, data, data, data, data, data, data + 16, data + 32, 1e-3, 2, 2, Y5_FLOAT32, Y5_FLOAT32};
static const y5_prune_layer good_layer = {data, data + 32, 4, 2, Y5_FLOAT32, false};
static const y5_scale_img good_job = {
    data, data + 32, 1, 1, 1, {4, 3, 4}, {4, 3, 4}, Y5_FLOAT32, Y5_CUDA_SCALE_LIKELY};

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
    REFUSED(y5_prune_layer, good_layer, dtype, Y5_INT8, PRUNE, "dtype 7");
    REFUSED(y5_prune_layer, good_layer, count, 5, PRUNE, "5 of 4 weights");
    REFUSED(y5_prune_layer, good_layer, count, -1, PRUNE, "-1 of 4 weights");
    REFUSED(y5_prune_layer, good_layer, weights, NULL, PRUNE, "null");
    REFUSED(y5_prune_layer, good_layer, pruned, (char *)data + 2, PRUNE, "not aligned");
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
        {numbers, 1, Y5_FLOAT16, sum, "dtype 2"},
        {NULL, 1, Y5_FLOAT32, sum, "zeros: 1 numbers"},
        {numbers, -1, Y5_FLOAT32, sum, "zeros: -1 numbers"},
        {(char *)numbers + 4, 1, Y5_FLOAT32, sum, "aligned to 8"},
        {numbers, 1, Y5_FLOAT32, NULL, "sum: a null pointer"},
        {numbers, 1, Y5_FLOAT64, (char *)sum + 4, "not aligned to its type"},
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
    REFUSED(y5_ema_pair, good_pair, average_dtype, 4, EMA, "pairs[0]: dtypes 4 and 0");
    REFUSED(y5_ema_pair, good_pair, source_dtype, -1, EMA, "dtypes 0 and -1");
    REFUSED(y5_ema_pair, good_pair, numel, -1, EMA, "-1 elements");
    REFUSED(y5_ema_pair, good_pair, source, NULL, EMA, "null");
    REFUSED(y5_ema_pair, good_pair, average, (char *)data + 1, EMA, "not aligned");
    REFUSED(y5_elements, good_item, dtype, Y5_DTYPE_COUNT, COUNT, "dtype 13");
    REFUSED(y5_elements, good_item, numel, (int64_t)1 << 50, COUNT, "elements");
    REFUSED(y5_elements, good_item, data, NULL, COUNT, "null");
    REFUSED(y5_elements, good_item, data, (char *)data + 2, COUNT, "not aligned");
    REFUSED(y5_fuse_pair, good_fuse, dtype, 4, FUSE, "dtype 4");
    REFUSED(y5_fuse_pair, good_fuse, fused_dtype, Y5_FLOAT16, FUSE, "fused_dtype 2");
    REFUSED(y5_fuse_pair, good_fuse, rows, 0, FUSE, "0 channels");
    REFUSED(y5_fuse_pair, good_fuse, columns, (int64_t)1 << 60, FUSE, "weights");
    REFUSED(y5_fuse_pair, good_fuse, mean, NULL, FUSE, "null");
    REFUSED(y5_scale_img, good_job, dtype, Y5_FLOAT64, SCALE, "dtype 1");
    REFUSED(y5_scale_img, good_job, variant, Y5_CUDA_SCALE_VARIANTS, SCALE, "variant 54");
    REFUSED(y5_scale_img, good_job, rows.resized, 0, SCALE, "rows and columns");
    REFUSED(y5_scale_img, good_job, columns.input, (int64_t)1 << 40, SCALE, "rows and columns");
    REFUSED(y5_scale_img, good_job, interleaved, 0, SCALE, "0 channels");
    REFUSED(y5_scale_img, good_job, output, NULL, SCALE, "null");
    y5_cuda_error error;
    expect_refusal(api->sparsity_count(&here, &good_item, 1, NULL, 1, &error), &error, "zeros");
    expect_refusal(api->sparsity_count(&here, &good_item, 1, numbers, 2, &error), &error, "zeros");
    sum_refusals();
    prune_refusals();
}

static y5_cuda_status
average(y5_cuda_error *error)
{
    return api->ema_update(&here, &good_pair, 1, 0.5, error);
}

/* Asks for the device as if nobody had. */
static y5_cuda_status
ask_anew(y5_cuda_error *error)
{
    forget_device();
    return api->check_device(0, error);
}

/* Makes one function of the driver fail and looks at what becomes of the library's, and of the next
 * one, which must not be blamed for what failed before it. */
static void
failing_in(y5_cuda_status (*function)(y5_cuda_error *error), const char *call, int32_t code,
           y5_cuda_status wanted, const char *words)
{
    y5_emulated_machine *machine = y5_emulated();
    machine->devices = 2;
    machine->current_device = 1;
    machine->failing = call;
    machine->failure = code;
    int64_t modules = machine->modules;
    float before = data[0];
    y5_cuda_error error;
    y5_cuda_status status = function(&error);
    CHECK(status == wanted && error.code == code, "%s %d: status %d", call, (int)code, (int)status);
    CHECK(strstr(error.message, words) != NULL, "'%s' is not in '%s'", words, error.message);
    CHECK(machine->current_device == 1, "%s: left on device %d", call,
          (int)machine->current_device);
    CHECK(data[0] == before, "%s: wrote", call);
    CHECK(machine->modules <= modules, "%s: a module too many stays loaded", call);
    machine->failing = "";
    status = function(&error);
    CHECK(status == Y5_CUDA_OK, "a good call after %s %d: %s", call, (int)code, error.message);
}

static void
failing(const char *call, int32_t code, y5_cuda_status wanted, const char *words)
{
    failing_in(average, call, code, wanted, words);
}

/* Every error that the driver has, and some that it has not, out of every call. */
static void
all_errors(void)
{
    static const struct {
        int32_t code;
        y5_cuda_status status;
    } errors[] = {
#define X(name, code, status) {code, Y5_CUDA_##status},
#include "errors.inc"
#undef X
        {998, Y5_CUDA_NOT_NOW},
        {-1, Y5_CUDA_NOT_NOW},
        {INT32_MAX, Y5_CUDA_NOT_NOW},
    };
    static const char *const calls[] = {"cuCtxPushCurrent_v2", "cuLaunchKernel"};
    static const char *const checks[] = {"cuDriverGetVersion",
                                         "cuInit",
                                         "cuDeviceGetCount",
                                         "cuDeviceGet",
                                         "cuDeviceGetAttribute",
                                         "cuDevicePrimaryCtxRetain",
                                         "cuCtxPushCurrent_v2",
                                         "cuThreadExchangeStreamCaptureMode",
                                         "cuModuleLoadData",
                                         "cuModuleGetFunction",
                                         "cuOccupancyMaxActiveBlocksPerMultiprocessor"};
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        for (size_t j = 0; j < sizeof(calls) / sizeof(calls[0]); j++) {
            failing(calls[j], errors[i].code, errors[i].status, "");
        }
        for (size_t j = 0; j < sizeof(checks) / sizeof(checks[0]); j++) {
            failing_in(ask_anew, checks[j], errors[i].code, errors[i].status, "");
        }
    }
}

static void
check_device_failures(void)
{
    y5_emulated_machine *machine = y5_emulated();
    y5_cuda_error error;
    CALL(check_device, 1);
    CHECK(api->check_device(2, &error) == Y5_CUDA_BAD_ARGUMENT, "there are two");
    CHECK(api->check_device(-1, &error) == Y5_CUDA_BAD_ARGUMENT, "device -1");
    machine->compute_capability = 61;
    failing_in(ask_anew, "cuModuleLoadData", 209, Y5_CUDA_NO_KERNEL, "sm_61");
    failing_in(ask_anew, "cuModuleLoadData", 221, Y5_CUDA_NO_KERNEL, api->architectures);
    machine->compute_capability = 90;
    machine->driver_version = 12000;
    CHECK(ask_anew(&error) == Y5_CUDA_NO_DRIVER, "%s", error.message);
    CHECK(strstr(error.message, "is for CUDA 12.0, and the CUDA library needs one for 12.1") !=
              NULL,
          "%s", error.message);
    machine->driver_version = 12010;
    CALL(check_device, 0); /* the oldest driver */
}

/* What users meet: a sentence each, out of the call that finds out. */
static void
check_troubles(void)
{
    static const struct {
        const char *call;
        int32_t code;
        y5_cuda_status status;
        const char *words;
    } troubles[] = {
        /* no memory: for the context, for the code, for a launch */
        {"cuDevicePrimaryCtxRetain", 2, Y5_CUDA_NOT_NOW, "starting the device on device 0: what"},
        {"cuModuleLoadData", 2, Y5_CUDA_NOT_NOW, "loading the kernels on device 0: what"},
        {"cuLaunchKernel", 2, Y5_CUDA_NOT_NOW, "ema on device 0: what the driver says"},
        /* a capture: in a mode that forbids to load code, or one that has come to nothing */
        {"cuModuleLoadData", 900, Y5_CUDA_NOT_NOW, "loading the kernels on device 0: what"},
        {"cuLaunchKernel", 901, Y5_CUDA_NOT_NOW, "ema on device 0: what the driver says"},
        /* a device that has vanished: no longer counted, taken away, fallen off the bus */
        {"cuDeviceGetCount", 100, Y5_CUDA_NO_DRIVER, "no CUDA device can be used: what the"},
        {"cuCtxPushCurrent_v2", 46, Y5_CUDA_NOT_NOW, "choosing the device on device 0: what"},
        {"cuLaunchKernel", 719, Y5_CUDA_FAILED, "ema on device 0: what the driver says"},
        /* drivers: of another release than their libraries, or not for the chip */
        {"cuInit", 803, Y5_CUDA_NO_DRIVER, "no CUDA device can be used: what the driver says"},
        {"cuInit", 804, Y5_CUDA_NO_DRIVER, "no CUDA device can be used: what the driver says"},
        /* a share of a device (MIG, MPS) that it cannot give, or that was taken back */
        {"cuDevicePrimaryCtxRetain", 224, Y5_CUDA_NO_KERNEL, "does not run on device 0, an sm_90"},
        {"cuLaunchKernel", 810, Y5_CUDA_FAILED, "ema on device 0: what the driver says"},
    };
    for (size_t i = 0; i < sizeof(troubles) / sizeof(troubles[0]); i++) {
        bool launching = strcmp(troubles[i].call, "cuLaunchKernel") == 0;
        failing_in(launching ? average : ask_anew, troubles[i].call, troubles[i].code,
                   troubles[i].status, troubles[i].words);
    }
    y5_emulated_machine *machine = y5_emulated();
    y5_cuda_error error;
    machine->devices = 0;
    CHECK(ask_anew(&error) == Y5_CUDA_BAD_ARGUMENT, "%s", error.message);
    CHECK(strstr(error.message, "there is no device 0, only 0 in all") != NULL, "%s",
          error.message);
    machine->devices = 2;
}

/* The smallest share of a device: one multiprocessor, on which a block at a time runs. */
static void
check_share_of_a_device(void)
{
    static float much[2 * 8192];
    const y5_ema_pair pair = {much, much + 8192, 8192, Y5_FLOAT32, Y5_FLOAT32};
    y5_emulated_machine *machine = y5_emulated();
    machine->multiprocessors = 1;
    machine->blocks_per_multiprocessor = 1;
    forget_device();
    int64_t blocks = machine->blocks_run;
    CALL(ema_update, &here, &pair, 1, 0.5);
    CHECK(machine->blocks_run == blocks + 1, "%d blocks", (int)(machine->blocks_run - blocks));
}

/* A device that was reset: the call that finds out leaves it to torch, the next one loads anew. */
static void
check_reset(void)
{
    static const int32_t codes[] = {201, 400, 709};
    y5_emulated_machine *machine = y5_emulated();
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        int64_t loaded = machine->loaded;
        failing("cuLaunchKernel", codes[i], Y5_CUDA_NOT_NOW, "ema on device 0");
        CHECK(machine->loaded > loaded, "%d: nothing was loaded", (int)codes[i]);
        loaded = machine->loaded;
        failing("cuLaunchKernel", 1, Y5_CUDA_NOT_NOW, "ema on device 0");
        CHECK(machine->loaded == loaded, "loaded once more");
    }
}

/* One call of each operation on three items. */
static void
call_each(void)
{
    static _Alignas(256) char workspace[1 << 16];
    static double sum;
    const y5_ema_pair pairs[] = {good_pair, good_pair, good_pair};
    const y5_elements items[] = {good_item, good_item, good_item};
    const y5_fuse_pair fused[] = {good_fuse, good_fuse, good_fuse};
    const y5_prune_layer layers[] = {good_layer, good_layer, good_layer};
    y5_cuda_where where = {NULL, 1, 0};
    CALL(ema_update, &where, pairs, 3, 0.5);
    CALL(sparsity_count, &where, items, 3, numbers, 3);
    CALL(sparsity_sum, &where, numbers, 3, Y5_FLOAT64, &sum);
    CALL(fuse, &where, fused, 3, NULL);
    CALL(prune, &where, layers, 3, workspace, sizeof(workspace));
    CALL(scale_img, &where, &good_job);
}

/* A device that is used for the first time while a graph is captured. */
static void
check_capture(void)
{
    y5_emulated_machine *machine = y5_emulated();
    int64_t loaded = machine->loaded;
    machine->devices = 2;
    machine->capturing = 1;
    y5_cuda_error error;
    expect_ok(api->check_device(1, &error), &error, "check_device in a capture");
    CHECK(machine->loaded > loaded, "nothing was loaded");
    call_each();
    machine->capturing = 0;
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
        CALL(ema_update, &where, &good_pair, 1, 0.5);
        CHECK(machine->last_device == 0 && machine->last_stream == &stream, "device %d",
              (int)machine->last_device);
        CHECK(machine->current_device == current, "%d", (int)machine->current_device);
    }
}

void
test_failures(void)
{
    shake_machine();
    check_capture();
    failing_in(ask_anew, "cuDeviceGetCount", 100, Y5_CUDA_NO_DRIVER, "no CUDA device can be used");
    failing_in(ask_anew, "cuDeviceGet", 101, Y5_CUDA_BAD_ARGUMENT, "there is no device 0");
    failing_in(ask_anew, "cuDeviceGetAttribute", 1, Y5_CUDA_NOT_NOW,
               "asking for the multiprocessors");
    failing_in(ask_anew, "cuModuleLoadData", 998, Y5_CUDA_NOT_NOW, "has no words for (unknown");
    failing("cuLaunchKernel", 2, Y5_CUDA_NOT_NOW, "ema on device 0: what the driver says");
    failing("cuLaunchKernel", 209, Y5_CUDA_NO_KERNEL, "does not run on device 0, an sm_90 chip");
    failing("cuLaunchKernel", 700, Y5_CUDA_FAILED, "ema on device 0: what the driver says");
    all_errors();
    check_troubles();
    check_share_of_a_device();
    check_device_failures();
    check_reset();
    check_guard();
    y5_emulated()->current_device = 0;
    y5_emulated()->devices = 1;
}
