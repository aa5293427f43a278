/* The layers of one prune call: tensors as the core's list, with the references that keep them. */
#ifndef Y5_LAYERS_H
#define Y5_LAYERS_H

#include "core/ops.h"
#include "python/place.h"
#include "python/state.h"
#include "python/tensors.h"

/* Zero-initialise; release with y5_layers_free on every path. */
typedef struct {
    y5_prune_layer *items;
    y5_tensors tensors; /* weights, and result where there are results, of each layer in turn */
    int64_t count;
    int64_t bytes; /* read and written */
    y5_place place;
} y5_layers;

/* The tensors of the list `weights`, the tensors of the list `pruned` (or None: nothing to write
 * to) and the integers of the list `counts`, checked. Y5_BAD_TYPE and Y5_BAD_VALUE for lists that
 * no caller should pass, Y5_UNSUPPORTED for tensors that torch must prune. */
y5_status y5_collect_layers(const y5_state *state, PyObject *weights, PyObject *pruned,
                            PyObject *counts, y5_layers *layers, y5_error *error);

/* Leaves an empty list. */
void y5_layers_free(y5_layers *layers);

#endif
