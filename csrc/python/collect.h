/* From modules to the lists the core works on. Two phases, because Python code may run while
 * modules are walked and would be free to replace a tensor's memory: first the tensors are
 * collected as references, then, with nothing but C in between, their pointers are taken and used.
 */
#ifndef Y5_COLLECT_H
#define Y5_COLLECT_H

#include "core/ops.h"
#include "core/overlap.h"
#include "python/place.h"
#include "python/state.h"
#include "python/tensors.h"

/* The pairs of one EMA update. Zero-initialise; release with y5_pairs_free on every path. */
typedef struct {
    y5_tensors tensors; /* average and source of each pair in turn */
    y5_ema_pair *items;
    int64_t *starts; /* count + 1 numbers, as core/ops.h wants them */
    y5_range *ranges;
    int64_t count;
    int64_t bytes; /* the update reads and writes */
    y5_place place;
    bool in_order;   /* some memory is written twice: no two pairs may run side by side */
    bool pinned;     /* the memory outlives whatever other threads do: the GIL may be released */
    bool only_check; /* set by the caller: nothing will be written */
} y5_pairs;

/* Phase 1: every entry of average.state_dict() that has to move, with source's entry of that key.
 * KeyError for a missing one; Y5_UNSUPPORTED with the key and the reason. Changes nothing. */
y5_status y5_pairs_collect(const y5_state *state, PyObject *average, PyObject *source,
                           y5_pairs *pairs, y5_error *error);

/* Phase 2: takes the pointers and checks everything that could stop the update; then, unless it is
 * only a check, tells torch's autograd that the averages are about to be written. Y5_UNSUPPORTED
 * has changed nothing. */
y5_status y5_pairs_borrow(const y5_state *state, PyObject *average, PyObject *source,
                          y5_pairs *pairs, y5_error *error);

void y5_pairs_free(y5_pairs *pairs);

/* The parameters of one module, each once. Zero-initialise; release with y5_parameters_free. */
typedef struct {
    y5_tensors tensors;
    y5_zero_count *items;
    int64_t *starts;
    int64_t count;
    int64_t bytes;
    y5_place place;
    bool pinned;
} y5_parameters;

/* Both phases in turn; the second may be repeated, and must be once Python code has run. */
y5_status y5_parameters_collect(const y5_state *state, PyObject *module, y5_parameters *parameters,
                                y5_error *error);

y5_status y5_parameters_borrow(const y5_state *state, y5_parameters *parameters, y5_error *error);

void y5_parameters_free(y5_parameters *parameters);

#endif
