/* The tensors of one fuse call: what is read of convolutions and batch norms, what is allocated for
 * the result. Knows which attributes the original reads, nothing of the arithmetic. */
#ifndef Y5_FUSION_H
#define Y5_FUSION_H

#include "core/ops.h"
#include "python/state.h"
#include "python/tensors.h"

/* What the result's module takes from the convolution, in this order: as attributes of that name.
 */
enum {
    Y5_FIELD_IN_CHANNELS,
    Y5_FIELD_OUT_CHANNELS,
    Y5_FIELD_KERNEL_SIZE,
    Y5_FIELD_STRIDE,
    Y5_FIELD_PADDING,
    Y5_FIELD_DILATION,
    Y5_FIELD_GROUPS,
    Y5_FIELD_COUNT
};

/* The tensors of a pair in the list of outputs. */
enum { Y5_FUSED_WEIGHT, Y5_FUSED_BIAS, Y5_ROOTS, Y5_OUTPUTS };

/* The Python side of one pair. */
typedef struct {
    PyObject *fields[Y5_FIELD_COUNT];
    int64_t shape[4]; /* of the weight, as the fields state it */
    int64_t inputs;   /* where its tensors begin in the list of all */
    bool has_bias;
} y5_fusion_pair;

/* Zero-initialise; release with y5_fusion_free on every path. */
typedef struct {
    y5_fuse_pair *items;
    y5_fuse_layout *layouts;
    y5_fusion_pair *pairs;
    int64_t *starts;
    y5_tensors inputs;
    y5_tensors outputs; /* Y5_OUTPUTS of each pair in turn */
    int64_t count;
    int64_t bytes; /* read and written */
    bool pinned;   /* the memory outlives whatever other threads do: the GIL may be released */
} y5_fusion;

/* Room for `count` pairs. */
y5_status y5_fusion_open(y5_fusion *fusion, int64_t count);

/* Reads the attributes of the next pair, checks them and allocates its result. Runs Python code.
 * Y5_UNSUPPORTED where the original's operations have to run, or to raise. */
y5_status y5_fusion_add(const y5_state *state, PyObject *conv, PyObject *bn, y5_fusion *fusion,
                        y5_error *error);

/* Fills the roots of all pairs, with the installed torch's own square root. Runs Python code. */
y5_status y5_fusion_take_roots(const y5_state *state, y5_fusion *fusion, y5_error *error);

/* Takes all pointers, with nothing but C from then on, and checks everything again. */
y5_status y5_fusion_borrow(const y5_state *state, y5_fusion *fusion, y5_error *error);

void y5_fusion_free(y5_fusion *fusion);

#endif
