/* Python object -> y5_tensor. With dlpack_abi.h, the only file that knows DLPack. */
#ifndef Y5_TENSOR_H
#define Y5_TENSOR_H

#include "core/y5.h"
#include "python/dlpack_abi.h"
#include "python/questions.h"
#include "python/state.h"

/* What a borrowed tensor owes its producer: at most one deleter call. Zero-initialise. */
typedef struct {
    dlpack_managed *managed;
    dlpack_managed_versioned *versioned;
} y5_loan;

/* The exchange table of a tensor type (torch 2.10 and later), or NULL. No exception is left. */
const void *y5_find_exchange(PyTypeObject *type);

#define Y5_NO_PLAIN_TENSOR "a subclass of torch.Tensor, or no tensor"

/* True for exactly torch.Tensor and torch.nn.Parameter. */
bool y5_is_plain_tensor(const y5_state *state, PyObject *object);

/* What follows asks torch's own C functions and runs no Python code. Y5_PYTHON_RAISED: one of them
 * has raised, which y5_refused() judges once no address is in use. */

/* Fills `tensor` from a plain torch tensor, through the exchange table or a capsule. The memory is
 * valid while the caller holds `object` and the GIL, and has not returned the loan; nothing else is
 * kept. Y5_UNSUPPORTED, with an empty error->argument, for what cannot be described, and for
 * tensors elsewhere than in the memory of the CPU or of a CUDA device. */
y5_status y5_borrow(const y5_state *state, PyObject *object, y5_tensor *tensor, y5_loan *loan,
                    y5_error *error);

/* True for addresses at which no storage lies, so that y5_storage_is_gone() is worth asking. */
bool y5_may_be_gone(const y5_tensor *tensor);

/* The stream on which torch would launch now on this CUDA device. */
y5_status y5_current_stream(const y5_state *state, int32_t device_index, void **stream,
                            y5_error *error);

/* Calls the deleter that is owed. GIL held; a pending exception is kept. */
void y5_return(y5_loan *loan);

/* What follows may run Python code. */

/* As y5_borrow() for any object with __dlpack__, in the CPU's memory, for reading only; the loan
 * holds the memory. What torch cannot be at fault for is a TypeError, ValueError or BufferError; an
 * exception of the producer passes through. */
y5_status y5_borrow_foreign(const y5_state *state, PyObject *object, y5_tensor *tensor,
                            y5_loan *loan, y5_error *error);

#endif
