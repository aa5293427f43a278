/* What torch is asked of a tensor, and what its refusals mean. */
#ifndef Y5_QUESTIONS_H
#define Y5_QUESTIONS_H

#include "python/state.h"

/* These ask C functions of torch's own that run no Python code and keep the GIL, which torch's
 * operations do not: tests/robustness/test_kept_gil.py holds it. */

/* The tensor's storage as an object of its own, which holds the memory: a tensor, even an alias or
 * a DLPack capsule, would follow an assignment to tensor.data. NULL with an exception. */
PyObject *y5_storage_of(const y5_state *state, PyObject *object);

/* function(argument) of a C function of torch's; its result is dropped. The sentence of a refusal
 * says that it came from `by`. */
y5_status y5_call_torch(PyObject *function, PyObject *argument, const char *by, y5_error *error);

/* Who raises, of the things that are asked in more than one place. */
#define Y5_VERSION_COUNTER "torch's version counter"

/* Y5_PYTHON_RAISED, with who has raised the pending exception. */
y5_status y5_raised_by(const char *by, y5_error *error);

/* These may run Python code, or let other threads run. */

/* 1 where the values are the negatives of those in memory, as in views that torch makes of complex
 * tensors; -1 with an exception. */
int y5_is_negated(const y5_state *state, PyObject *object);

/* Judges the pending exception, raised by one of torch's C functions of which the message speaks.
 * Of the types with which torch refuses: Y5_UNSUPPORTED with its first line as the reason. Anything
 * else stays, and is Y5_PYTHON_RAISED: memory errors, and what signal handlers raise is never seen
 * here, since no function written in Python has run. */
y5_status y5_refused(y5_error *error);

/* tensor.dtype.is_floating_point: 1, 0, or -1 with an exception. */
int y5_is_floating(const y5_state *state, PyObject *tensor);

#define Y5_STORAGE_IS_GONE "its storage was resized to 0 bytes"

/* 1 where the tensor's storage was resized to 0 bytes, -1 with an exception; 0 also where torch
 * cannot tell. */
int y5_storage_is_gone(const y5_state *state, PyObject *object);

/* 0 for tensors of int8, uint8 or bool, 1 for the types of fewer bits that are stored in the same
 * way, -1 with an exception. */
int y5_has_fewer_bits(const y5_state *state, PyObject *object);

/* Raises the version of a tensor in a torch that has no function for it: writes no element of it.
 */
y5_status y5_raise_version(const y5_state *state, PyObject *object, y5_error *error);

#endif
