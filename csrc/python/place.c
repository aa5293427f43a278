/* One device per call, and whether anything here can compute on it. */
#include "python/place.h"

#include "python/cuda_loader.h"

static const char *
device_kind(y5_device device)
{
    return device == Y5_CUDA ? "cuda" : "cpu";
}

/* Asks the library about the tensor's device, and borrows the tensor again. What the library
 * refuses for good is said by y5_place_open; what only this time, here. */
static y5_status
ask(const y5_state *state, PyObject *object, y5_tensor *tensor, y5_loan *loan, y5_error *error)
{
    const y5_cuda_api *api = NULL;
    y5_return(loan);
    y5_status status = y5_cuda_find(state, tensor->device_index, &api, error);
    return status == Y5_OK || y5_cuda_is_known(state, tensor->device_index)
               ? y5_borrow_anywhere(state, object, tensor, loan, error)
               : status;
}

y5_status
y5_place_add(const y5_state *state, y5_place *place, PyObject *object, y5_tensor *tensor,
             y5_loan *loan, y5_error *error)
{
    if (tensor->device == Y5_CUDA && !place->decided &&
        !y5_cuda_is_known(state, tensor->device_index)) {
        y5_status status = ask(state, object, tensor, loan, error);
        if (status != Y5_OK) {
            return status;
        }
    }
    int32_t index = tensor->device == Y5_CUDA ? tensor->device_index : 0;
    if (!place->decided) {
        place->decided = true;
        place->device = tensor->device;
        place->index = index;
        return Y5_OK;
    }
    if (place->device != tensor->device || place->index != index) {
        return y5_fail(error, Y5_UNSUPPORTED, "",
                       "on %s:%d, but tensors before it on %s:%d; allowed is one device",
                       device_kind(tensor->device), (int)index, device_kind(place->device),
                       (int)place->index);
    }
    return Y5_OK;
}

y5_status
y5_place_open(const y5_state *state, y5_place *place, y5_error *error)
{
    place->cuda = NULL;
    if (place->device != Y5_CUDA) {
        return Y5_OK;
    }
    if (!y5_cuda_is_known(state, place->index)) { /* asking would make what was borrowed stale */
        return y5_fail(error, Y5_UNSUPPORTED, "", "moved, or the library replaced, meanwhile");
    }
    return y5_cuda_find(state, place->index, &place->cuda, error);
}

y5_status
y5_place_stayed(const y5_place *before, const y5_place *now, y5_error *error)
{
    return before->device == now->device && before->index == now->index && before->cuda == now->cuda
               ? Y5_OK
               : y5_fail(error, Y5_UNSUPPORTED, "",
                         "tensors were moved to another device meanwhile");
}

y5_status
y5_place_allocate(const y5_state *state, const y5_place *place, int64_t bytes, PyObject **memory)
{
    PyObject *arguments = Py_BuildValue("(Li)", (long long)bytes, (int)place->index);
    *memory = arguments != NULL ? PyObject_Call(state->torch.allocate, arguments, NULL) : NULL;
    Py_XDECREF(arguments);
    return *memory != NULL ? Y5_OK : Y5_PYTHON_RAISED;
}
