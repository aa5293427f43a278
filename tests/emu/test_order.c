/* prune's launches with their blocks side by side, each of which sees what others store as late as
 * a GPU may show it. No other kernel's blocks tell each other anything but by atomics. */
#include "test_emu.h"

#include <string.h>

#define SOME 2

/* Layers that several blocks share; most of the weights that equal the threshold are pruned, so
 * that the counts of nearly all chunks matter. */
static void
prune_late(y5_dtype dtype)
{
    y5_emulated_machine *machine = y5_emulated();
    y5_prune_layer layers[SOME];
    y5_prune_layer expected[SOME];
    for (int64_t i = 0; i < SOME; i++) {
        int64_t numel = random_between(8193, 20000);
        char *weights = array_of(numel, dtype).data;
        for (int64_t at = 0; at < numel; at++) {
            set_element(weights, at, dtype, (double)random_between(-3, 3) * 0.25);
        }
        layers[i] = (y5_prune_layer){
            weights, array_of(numel, dtype).data, numel, numel * 2 / 3, dtype, false};
        expected[i] = layers[i];
        expected[i].pruned = array_of(numel, dtype).data;
    }
    int64_t bytes = api->prune_workspace_bytes(layers, SOME);
    char *workspace = workspace_of(bytes);
    machine->exchanged = workspace;
    machine->exchanged_bytes = (size_t)bytes;
    CALL(prune, &here, layers, SOME, workspace, bytes);
    machine->exchanged = NULL;
    y5_prune(&core, expected, SOME, false);
    for (int64_t i = 0; i < SOME; i++) {
        check_same(layers[i].pruned, expected[i].pruned, layers[i].numel, dtype, "pruned");
    }
    free_all();
}

void
test_order(void)
{
    for (int32_t trial = 0; trial < 24; trial++) {
        shake_machine();
        y5_emulated()->multiprocessors = 8; /* a block for each chunk */
        y5_emulated()->together = (int32_t)random_between(2, 8);
        forget_device();
        prune_late((y5_dtype)(trial % Y5_FLOATING_COUNT));
    }
}
