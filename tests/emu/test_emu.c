/* The CUDA library's launchers and kernels on the emulated machine, against the core's kernels:
 *     test_emu [GROUP]             all groups, or one; a line of output for each
 *     test_emu --plant overrun     does what a checker must report
 * Ends with status 1 at the first failed check. */
#include "test_emu.h"

#include <string.h>

const y5_cuda_api *y5_cuda_api_get(void);

const y5_cuda_api *api;
const y5_cuda_where here = {NULL, 0, 0};
const y5_run core = {Y5_LEVEL_PORTABLE, {NULL, 0}};

void
forget_device(void)
{
    y5_emulated_machine *machine = y5_emulated();
    const char *failing = machine->failing;
    const int32_t failure = machine->failure;
    y5_cuda_error error;
    machine->failing = "cuCtxPushCurrent_v2";
    machine->failure = 201;
    (void)api->check_device(0, &error);
    machine->failing = failing;
    machine->failure = failure;
}

void
shake_machine(void)
{
    y5_emulated_machine *machine = y5_emulated();
    machine->threads = (y5_emulated_order)random_between(Y5_ASCENDING, Y5_SHUFFLED);
    machine->blocks = (y5_emulated_order)random_between(Y5_ASCENDING, Y5_SHUFFLED);
    machine->seed = (uint32_t)random_bits();
    machine->multiprocessors = (int32_t)random_between(1, 3);
    machine->blocks_per_multiprocessor = (int32_t)random_between(1, 8);
    machine->together = (int32_t)random_between(1, 3);
    forget_device();
    machine->launches = 0;
    machine->clears = 0;
}

void
expect_ok(y5_cuda_status status, const y5_cuda_error *error, const char *what)
{
    CHECK(status == Y5_CUDA_OK, "%s: status %d, %s", what, (int)status, error->message);
}

void
expect_launches(int64_t launches)
{
    int64_t found = y5_emulated()->launches;
    CHECK(found == launches, "%d launches, not %d", (int)found, (int)launches);
}

array
array_of(int64_t numel, y5_dtype dtype)
{
    int64_t bytes = (int64_t)y5_dtype_bytes(dtype);
    int64_t skipped = random_between(0, 1) * random_between(0, 3) * bytes;
    array made = {allocate(skipped + numel * bytes), NULL, numel * bytes};
    made.data = made.block + skipped;
    fill(made.data, numel, dtype);
    return made;
}

array
copy_of(const array *original)
{
    int64_t skipped = original->data - original->block;
    array made = {allocate(skipped + original->bytes), NULL, original->bytes};
    made.data = made.block + skipped;
    memcpy(made.data, original->data, (size_t)original->bytes);
    return made;
}

char *
workspace_of(int64_t bytes)
{
    char *block = allocate(bytes + 255);
    memset(block, 0xa5, (size_t)bytes + 255);
    return block + (int64_t)(-(uintptr_t)block % 256);
}

int64_t
random_numel(void)
{
    static const int64_t edges[] = {0, 256, 1024, 2048, 4096, 8192, 12288};
    int64_t edge = edges[random_between(0, 6)];
    int64_t near = edge + random_between(-9, 40);
    return near > 0 ? near : 1;
}

static int
plant(const char *mistake)
{
    if (strcmp(mistake, "overrun") == 0) { /* a tensor that is one element shorter than it says */
        char *data = allocate(4095 * 4);
        fill(data, 4095, Y5_FLOAT32);
        y5_elements item = {data, 4096, Y5_FLOAT32};
        int64_t zeros = 0;
        CALL(sparsity_count, &here, &item, 1, &zeros, 1);
    }
    return 0;
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } groups[] = {
        {"grid", test_grid},         {"ema", test_ema},           {"sparsity", test_sparsity},
        {"fuse", test_fuse},         {"prune", test_prune},       {"scale_img", test_scale_img},
        {"refusals", test_refusals}, {"failures", test_failures}, {"changing", test_changing},
        {"halfway", test_halfway},   {"order", test_order},
    };
    api = y5_cuda_api_get();
    CHECK(api->abi_version == Y5_CUDA_ABI_VERSION && api->struct_bytes == sizeof(y5_cuda_api),
          "the ABI");
    CALL(check_device, 0);
    const int64_t kernels = y5_emulated()->loaded;
    if (argc > 2 && strcmp(argv[1], "--plant") == 0) {
        seed_random(argv[2]);
        return plant(argv[2]);
    }
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        if (argc < 2 || strcmp(argv[1], groups[i].name) == 0) {
            seed_random(groups[i].name);
            groups[i].run();
            free_all();
            printf("ok %s\n", groups[i].name);
            (void)fflush(stdout);
        }
    }
    const y5_emulated_machine *machine = y5_emulated();
    CHECK(machine->late_loaded == 0, "%d kernels were not loaded before their first launch",
          (int)machine->late_loaded);
    CHECK(argc > 1 || machine->kernels_run == kernels, "%d of %d kernels ran",
          (int)machine->kernels_run, (int)kernels);
    return 0;
}
