/* Pruning by a full sort. Shares nothing with core/prune.c. */
#include "prune_oracle.h"

#include "support.h"

#include <math.h>
#include <string.h>

static int
by_magnitude_and_place(const void *first, const void *second)
{
    const ranked *a = first;
    const ranked *b = second;
    bool a_nan = isnan(a->magnitude) != 0;
    bool b_nan = isnan(b->magnitude) != 0;
    if (a_nan != b_nan) {
        return a_nan ? 1 : -1;
    }
    if (!a_nan && a->magnitude != b->magnitude) {
        return a->magnitude < b->magnitude ? -1 : 1;
    }
    return a->place < b->place ? -1 : 1;
}

ranked *
rank_elements(const void *weights, int64_t numel, y5_dtype dtype)
{
    ranked *order = allocate(numel * (int64_t)sizeof(*order));
    for (int64_t i = 0; i < numel; i++) {
        order[i] = (ranked){fabs(get_element(weights, i, dtype)), i};
    }
    if (numel > 0) {
        qsort(order, (size_t)numel, sizeof(*order), by_magnitude_and_place);
    }
    return order;
}

void
prune_in_order(const y5_prune_layer *layer, const ranked *order, void *expected)
{
    if (layer->numel > 0) {
        memcpy(expected, layer->weights, (size_t)layer->numel * y5_dtype_bytes(layer->dtype));
    }
    for (int64_t i = 0; i < layer->count; i++) {
        double weight = get_element(layer->weights, order[i].place, layer->dtype);
        set_element(expected, order[i].place, layer->dtype, 0.0 * weight);
    }
}

bool
choice_shows(const y5_prune_layer *layer, const ranked *order)
{
    if (layer->count == 0 || layer->count == layer->numel) {
        return false;
    }
    double last = order[layer->count - 1].magnitude;
    return last > 0 && last == order[layer->count].magnitude;
}
