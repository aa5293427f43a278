/* One device per call, and whether anything here can compute on it. */
#include "python/place.h"

#include "python/cuda_loader.h"

static const char *
device_kind(y5_device device)
{
    return device == Y5_CUDA ? "cuda" : "cpu";
}

y5_status
y5_place_add(y5_place *place, const y5_tensor *tensor, y5_error *error)
{
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
    place->cuda = y5_cuda_find(state, place->index, error);
    return place->cuda != NULL ? Y5_OK : Y5_UNSUPPORTED;
}

y5_status
y5_place_allocate(const y5_state *state, const y5_place *place, int64_t bytes, PyObject **memory)
{
    PyObject *arguments = Py_BuildValue("(Li)", (long long)bytes, (int)place->index);
    *memory = arguments != NULL ? PyObject_Call(state->torch.allocate, arguments, NULL) : NULL;
    Py_XDECREF(arguments);
    return *memory != NULL ? Y5_OK : Y5_PYTHON_RAISED;
}
