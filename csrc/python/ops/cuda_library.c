/* What concerns the CUDA library alone: where it is and what became of it. */
#include "python/args.h"
#include "python/bindings.h"
#include "python/cuda_loader.h"
#include "python/errors.h"

const char y5_doc_use_cuda_library[] =
    "use_cuda_library(path)\n--\n\n"
    "Where the CUDA library is, or None. It is opened at the first CUDA tensor.";

PyObject *
y5_py_use_cuda_library(PyObject *module, PyObject *const *arguments, Py_ssize_t count,
                       PyObject *keywords)
{
    static const y5_signature signature = {"use_cuda_library", 1, {"path"}};
    PyObject *values[1];
    PyObject *bytes = NULL;
    if (!y5_parse(&signature, arguments, count, keywords, values) ||
        (values[0] != Py_None && !PyUnicode_FSConverter(values[0], &bytes))) {
        return NULL;
    }
    bool set =
        y5_cuda_set_path(PyModule_GetState(module), bytes != NULL ? PyBytes_AsString(bytes) : NULL);
    Py_XDECREF(bytes);
    if (!set) {
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

const char y5_doc_cuda_info[] =
    "cuda_info(device=None)\n--\n\n"
    "Facts of the CUDA library, which is opened for it: problem, or architectures and toolkit. "
    "With "
    "the\n"
    "number of a device also whether the library runs on it, which starts CUDA there.";

PyObject *
y5_py_cuda_info(PyObject *module, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords)
{
    static const y5_signature signature = {"cuda_info", 0, {"device"}};
    const y5_state *state = PyModule_GetState(module);
    PyObject *values[1];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    long device = values[0] != NULL && values[0] != Py_None ? PyLong_AsLong(values[0]) : -1;
    if (device == -1 && PyErr_Occurred()) {
        return NULL;
    }
    return y5_cuda_facts(state, device < INT32_MAX ? (int32_t)device : INT32_MAX);
}
