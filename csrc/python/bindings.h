/* The functions of the module, one per operation. */
#ifndef Y5_BINDINGS_H
#define Y5_BINDINGS_H

#include "core/y5.h"
#include "python/state.h"

#define Y5_BINDING(name)                                                                           \
    PyObject *name(PyObject *module, PyObject *const *arguments, Py_ssize_t count,                 \
                   PyObject *keywords)

Y5_BINDING(y5_py_ema_update);
Y5_BINDING(y5_py_ema_check);
Y5_BINDING(y5_py_count_module_zeros);
Y5_BINDING(y5_py_count_zeros);
Y5_BINDING(y5_py_sum_zeros);
Y5_BINDING(y5_py_fuse);
Y5_BINDING(y5_py_prune);
Y5_BINDING(y5_py_scale_img);
Y5_BINDING(y5_py_use_cuda_library);
Y5_BINDING(y5_py_cuda_info);
Y5_BINDING(y5_py_fuse_on_gpu);
Y5_BINDING(y5_py_new_convolution);
Y5_BINDING(y5_py_skip_random);

extern const char y5_doc_ema_update[];
extern const char y5_doc_ema_check[];
extern const char y5_doc_count_module_zeros[];
extern const char y5_doc_count_zeros[];
extern const char y5_doc_sum_zeros[];
extern const char y5_doc_fuse[];
extern const char y5_doc_prune[];
extern const char y5_doc_scale_img[];
extern const char y5_doc_use_cuda_library[];
extern const char y5_doc_cuda_info[];
extern const char y5_doc_fuse_on_gpu[];
extern const char y5_doc_new_convolution[];
extern const char y5_doc_skip_random[];

#endif
