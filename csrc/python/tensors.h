/* Tensors held by strong references, and what is owed for having borrowed them. */
#ifndef Y5_TENSORS_H
#define Y5_TENSORS_H

#include "python/state.h"
#include "python/tensor.h"

/* Zero-initialise; release with y5_tensors_free on every path. */
typedef struct {
    PyObject **objects;
    y5_loan *loans; /* one for each object */
    int64_t count;
    int64_t capacity;
} y5_tensors;

/* Makes room for `count` more; false without memory. */
bool y5_tensors_reserve(y5_tensors *tensors, int64_t count);

/* Appends `count` references; false without memory. */
bool y5_tensors_append(y5_tensors *tensors, PyObject *const *objects, int64_t count);

/* Gives back what was borrowed; the references stay. */
void y5_tensors_return(y5_tensors *tensors);

/* Replaces each tensor by an alias that owns its storage: assigning to tensor.data in another
 * thread then leaves the memory alone. Returns the loans. */
y5_status y5_tensors_pin(const y5_state *state, y5_tensors *tensors);

void y5_tensors_free(y5_tensors *tensors);

#endif
