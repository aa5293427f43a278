/* What concerns the CUDA library alone: where it is and what became of it. */
#include "python/bindings.h"
#include "python/cuda_loader.h"

const char y5_doc_use_cuda_library[] =
    "use_cuda_library(path)\n--\n\n"
    "Where the CUDA library is, or None. It is opened at the first CUDA tensor.";

const y5_signature y5_signature_use_cuda_library = {false, 1, {"path"}};

y5_status
y5_py_use_cuda_library(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    (void)result;
    (void)error;
    PyObject *bytes = NULL;
    if (values[0] != Py_None && !PyUnicode_FSConverter(values[0], &bytes)) {
        return Y5_PYTHON_RAISED;
    }
    bool set = y5_cuda_set_path(state, bytes != NULL ? PyBytes_AsString(bytes) : NULL);
    Py_XDECREF(bytes);
    return set ? Y5_OK : Y5_NO_MEMORY;
}

const char y5_doc_cuda_info[] =
    "cuda_info(device=None)\n--\n\n"
    "Facts of the CUDA library, which is opened for it: problem, or architectures and toolkit.\n"
    "With the number of a device also whether the library runs on it, which starts CUDA there.";

const y5_signature y5_signature_cuda_info = {false, 0, {"device"}};

y5_status
y5_py_cuda_info(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    (void)error;
    long device = values[0] != NULL && values[0] != Py_None ? PyLong_AsLong(values[0]) : -1;
    if (device == -1 && PyErr_Occurred()) {
        return Y5_PYTHON_RAISED;
    }
    return y5_give(y5_cuda_facts(state, device < INT32_MAX ? (int32_t)device : INT32_MAX), result);
}
