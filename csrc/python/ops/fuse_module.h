/* The modules of a fuse call: what is read of convolutions and batch norms, and the nn.Conv2d that
 * is made. Knows which attributes the original reads, nothing of tensors' memory. */
#ifndef Y5_FUSE_MODULE_H
#define Y5_FUSE_MODULE_H

#include "python/state.h"

/* A module whose attributes are looked up where nn.Module keeps them, or, without `members`, in the
 * way any object's are. All but `object` is owned. */
typedef struct {
    PyObject *object;
    PyObject *members;
    PyObject *tensors[2]; /* of the members: parameters and buffers; NULL for no dict */
} y5_owner;

/* False with an exception. The caller closes it in any case. */
bool y5_owner_open(const y5_state *state, PyObject *object, const PyTypeObject *plain,
                   y5_owner *opened);

/* owner.name as a new reference, or NULL with an exception. */
PyObject *y5_owner_get(const y5_owner *from, PyObject *name);

void y5_owner_close(y5_owner *opened);

/* Y5_UNSUPPORTED where the pending exception says that an attribute is missing, which is the
 * original's to report. Every other one is the caller's to see. */
y5_status y5_attribute_missing(y5_error *error);

/* What the result takes from the convolution, in this order: as attributes of that name. */
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

/* The Python side of one pair. */
typedef struct {
    PyObject *fields[Y5_FIELD_COUNT];
    int64_t weight; /* places of the results among the call's tensors */
    int64_t bias;
    int64_t roots;
} y5_fuse_module;

/* Reads the fields, and the weight's shape from them. Y5_UNSUPPORTED for sizes that no constructor
 * of nn.Conv2d leaves. */
y5_status y5_fuse_module_read(const y5_state *state, const y5_owner *conv, y5_fuse_module *self,
                              int64_t shape[4], y5_error *error);

/* Uninitialised memory of the default dtype for the result's weight (4 dimensions of its shape) or
 * bias (1): torch.empty, with these keywords unless they are NULL. */
PyObject *y5_fuse_memory(const y5_state *state, const int64_t shape[4], int32_t ndim,
                         PyObject *keywords);

/* A new nn.Conv2d with the fused weight and bias, which become its parameters, like the prototype:
 * an nn.Conv2d as torch constructs it. The result takes the fields, shares what cannot change, and
 * has containers and tuples of its own. NULL with an exception. */
PyObject *y5_fuse_module_make(const y5_state *state, const y5_fuse_module *self,
                              PyObject *const tensors[2], PyObject *prototype);

void y5_fuse_module_free(y5_fuse_module *self);

#endif
