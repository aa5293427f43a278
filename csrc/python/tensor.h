/* Python object -> y5_tensor. With dlpack_abi.h, the only file that knows DLPack. */
#ifndef Y5_TENSOR_H
#define Y5_TENSOR_H

#include "core/y5.h"
#include "python/dlpack_abi.h"
#include "python/state.h"

/* What a borrowed tensor owes its producer: at most one deleter call. Zero-initialise. */
typedef struct {
    dlpack_managed *managed;
    dlpack_managed_versioned *versioned;
} y5_loan;

/* The exchange table of a tensor type (torch 2.10 and later), or NULL. No exception is left. */
const void *y5_find_exchange(PyTypeObject *type);

/* True for exactly torch.Tensor and torch.nn.Parameter. */
bool y5_is_plain_tensor(const y5_state *state, PyObject *object);

/* tensor.dtype.is_floating_point: 1, 0, or -1 with an exception. */
int y5_is_floating(const y5_state *state, PyObject *tensor);

/* 1 where the values are the negatives of those in memory, as in views that torch makes of complex
 * tensors; -1 with an exception. A parameter without gaps is not asked: such a one takes
 * as_strided on a view of a complex tensor, and asking each parameter of YOLOv5n costs 20 µs. */
int y5_is_negated(const y5_state *state, PyObject *object, const y5_tensor *tensor);

/* Turns the pending exception into a Y5_UNSUPPORTED with its first line as the reason, said to come
 * from `by`. What is no refusal (MemoryError, KeyboardInterrupt) stays: Y5_PYTHON_RAISED. */
y5_status y5_refused(y5_error *error, const char *by);

/* Fills `tensor` from a plain torch tensor, through the exchange table or a capsule.
 * The memory is valid while the caller holds `object` and has not returned the loan; nothing else
 * is kept. Everything that cannot be described is Y5_UNSUPPORTED, with an empty error->argument, as
 * are tensors elsewhere than in the memory of the CPU or of a CUDA device. Runs no Python code with
 * torch 2.10 and later. */
y5_status y5_borrow_anywhere(const y5_state *state, PyObject *object, y5_tensor *tensor,
                             y5_loan *loan, y5_error *error);

/* The same for tensors in the CPU's memory; all others are Y5_UNSUPPORTED. */
y5_status y5_borrow(const y5_state *state, PyObject *object, y5_tensor *tensor, y5_loan *loan,
                    y5_error *error);

/* The same for any object with __dlpack__, for reading only. What torch cannot be at fault for
 * is a TypeError, ValueError or BufferError; an exception of the producer passes through. */
y5_status y5_borrow_foreign(const y5_state *state, PyObject *object, y5_tensor *tensor,
                            y5_loan *loan, y5_error *error);

/* The stream on which torch would launch now on this CUDA device. */
y5_status y5_current_stream(const y5_state *state, int32_t device_index, void **stream,
                            y5_error *error);

/* Calls the deleter that is owed. GIL held; a pending exception is kept. */
void y5_return(y5_loan *loan);

#endif
