/* The list of tensors that a call holds. Knows nothing of modules. */
#include "python/tensors.h"

/* Room for `capacity` in all. */
static bool
grow(y5_tensors *tensors, int64_t capacity)
{
    PyObject **grown =
        PyMem_Realloc(tensors->objects, (size_t)capacity * sizeof(*tensors->objects));
    if (grown == NULL) {
        return false;
    }
    tensors->objects = grown;
    y5_loan *loans = PyMem_Realloc(tensors->loans, (size_t)capacity * sizeof(*loans));
    if (loans == NULL) {
        return false;
    }
    tensors->loans = loans;
    tensors->capacity = capacity;
    return true;
}

bool
y5_tensors_reserve(y5_tensors *tensors, int64_t count)
{
    int64_t wanted = tensors->count + count;
    return wanted <= tensors->capacity || grow(tensors, wanted);
}

bool
y5_tensors_append(y5_tensors *tensors, PyObject *const *objects, int64_t count)
{
    if (tensors->count + count > tensors->capacity &&
        !grow(tensors, tensors->capacity > 0 ? 2 * tensors->capacity : 1024)) {
        return false;
    }
    for (int64_t i = 0; i < count; i++) {
        Py_INCREF(objects[i]);
        tensors->objects[tensors->count] = objects[i];
        tensors->loans[tensors->count] = (y5_loan){0};
        tensors->count++;
    }
    return true;
}

void
y5_tensors_return(y5_tensors *tensors)
{
    for (int64_t i = 0; i < tensors->count; i++) {
        y5_return(&tensors->loans[i]);
    }
}

void
y5_tensors_free(y5_tensors *tensors)
{
    y5_tensors_return(tensors);
    for (int64_t i = 0; i < tensors->count; i++) {
        Py_DECREF(tensors->objects[i]);
    }
    PyMem_Free(tensors->objects);
    PyMem_Free(tensors->loans);
}

y5_status
y5_tensors_pin(const y5_state *state, y5_tensors *tensors)
{
    y5_tensors_return(tensors);
    for (int64_t i = 0; i < tensors->count; i++) {
        PyObject *alias =
            PyObject_CallFunctionObjArgs(state->torch.detach, tensors->objects[i], NULL);
        if (alias == NULL) {
            return Y5_PYTHON_RAISED;
        }
        Py_DECREF(tensors->objects[i]);
        tensors->objects[i] = alias;
    }
    return Y5_OK;
}
