/* What prune must compute, from a full sort: shared by its test and its fuzz target. Knows the
 * core's boundary types only. */
#ifndef PRUNE_ORACLE_H
#define PRUNE_ORACLE_H

#include "core/items.h"

/* An element's magnitude and place. */
typedef struct {
    double magnitude;
    int64_t place;
} ranked;

/* The elements by magnitude and place, NaN last; in memory that free_all() frees. */
ranked *rank_elements(const void *weights, int64_t numel, y5_dtype dtype);

/* Fills `expected`, room for the layer, with its weights, the `count` first in order pruned. */
void prune_in_order(const y5_prune_layer *layer, const ranked *order, void *expected);

/* Whether the choice among equally small weights shows. */
bool choice_shows(const y5_prune_layer *layer, const ranked *order);

#endif
