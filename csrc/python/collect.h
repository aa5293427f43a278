/* What a walk found, as the lists the core works on, with the references that keep it alive. */
#ifndef Y5_COLLECT_H
#define Y5_COLLECT_H

#include "core/ops.h"
#include "core/overlap.h"
#include "python/state.h"
#include "python/tensor.h"

/* The pairs of one EMA update. Zero-initialise; release with y5_pairs_free on every path. */
typedef struct {
    y5_ema_pair *items;
    int64_t *starts;    /* count + 1 numbers, as core/ops.h wants them */
    PyObject **objects; /* strong references: average and source of each pair in turn */
    y5_loan *loans;     /* like objects */
    y5_range *ranges;   /* like objects */
    int64_t count;
    int64_t capacity;
    int64_t bytes; /* the update reads and writes */
    bool in_order; /* some memory is written twice: no two pairs may run side by side */
} y5_pairs;

/* Every floating entry of average.state_dict() with source's entry of that key, checked for
 * everything that could stop the update: Y5_MISSING_KEY with the dotted key, Y5_UNSUPPORTED with
 * the key and the reason. Changes nothing. */
y5_status y5_collect_pairs(const y5_state *state, PyObject *average, PyObject *source,
                           y5_pairs *pairs, y5_error *error);

/* Tells torch's autograd that every average is about to be written. */
y5_status y5_bump_versions(const y5_state *state, const y5_pairs *pairs, y5_error *error);

void y5_pairs_free(y5_pairs *pairs);

/* The parameters of one module, each once. Zero-initialise; release with y5_parameters_free. */
typedef struct {
    y5_zero_count *items;
    int64_t *starts;
    PyObject **objects; /* strong references */
    y5_loan *loans;
    int64_t count;
    int64_t capacity;
    int64_t bytes;
} y5_parameters;

y5_status y5_collect_parameters(const y5_state *state, PyObject *module, y5_parameters *parameters,
                                y5_error *error);

void y5_parameters_free(y5_parameters *parameters);

#endif
