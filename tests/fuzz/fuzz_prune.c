/* prune's selection and the writing of its result against a full sort, for weights of any bits. */
#include "core/ops.h"
#include "fuzz_layer.h"
#include "prune_oracle.h"

#define MOST_LAYERS 3

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input from = {data, size};
    y5_run run = {take_level(&from), {pool_in_turn, (int32_t)take_between(&from, 1, 3)}};
    int64_t count = take_between(&from, 1, MOST_LAYERS);
    y5_prune_layer layers[MOST_LAYERS];
    for (int64_t i = 0; i < count; i++) {
        layers[i] = take_layer(&from);
    }
    y5_prune(&run, layers, count, false);
    for (int64_t i = 0; i < count; i++) {
        const y5_prune_layer *layer = &layers[i];
        ranked *order = rank_elements(layer->weights, layer->numel, layer->dtype);
        void *expected = allocate(layer->numel * (int64_t)y5_dtype_bytes(layer->dtype));
        prune_in_order(layer, order, expected);
        check_same(layer->pruned, expected, layer->numel, layer->dtype, "pruned");
        CHECK(layer->ambiguous == choice_shows(layer, order), "%d of %d, dtype %d",
              (int)layer->count, (int)layer->numel, (int)layer->dtype);
    }
    free_all();
    return 0;
}
