/* The functions of the module: what each one is, and what is done for all of them. */
#ifndef Y5_BINDINGS_H
#define Y5_BINDINGS_H

#include "python/state.h"

#define Y5_MAX_ARGUMENTS 4

/* A function's parameters: positional or by keyword, no defaults but NULL. */
typedef struct {
    bool guarded;        /* refuses the call where torch's own operations have to be the ones */
    Py_ssize_t required; /* the first so many parameters must be given */
    const char *parameters[Y5_MAX_ARGUMENTS + 1];
} y5_signature;

/* Does the call: `values` are the arguments in the order of the parameters, borrowed, NULL where
 * one is left out. *result becomes a new reference, or stays NULL for None; only with Y5_OK. */
typedef y5_status y5_binding(y5_state *state, PyObject *const *values, PyObject **result,
                             y5_error *error);

/* Every function by its name in Python. `name` is y5_py_name, its documentation y5_doc_name. */
#define Y5_BINDINGS(X)                                                                             \
    X(ema_update)                                                                                  \
    X(ema_check)                                                                                   \
    X(count_module_zeros)                                                                          \
    X(count_zeros)                                                                                 \
    X(sum_zeros)                                                                                   \
    X(fuse)                                                                                        \
    X(fuse_on_gpu)                                                                                 \
    X(new_convolution)                                                                             \
    X(prune)                                                                                       \
    X(scale_img)                                                                                   \
    X(skip_random)                                                                                 \
    X(register_torch)                                                                              \
    X(configure)                                                                                   \
    X(use_cuda_library)                                                                            \
    X(cuda_info)

/* Those without parameters, as Python calls them: time_synchronized takes less time than the rest
 * of what is done for a call. */
#define Y5_PLAIN_BINDINGS(X)                                                                       \
    X(time_synchronized)                                                                           \
    X(info)

#define Y5_DECLARE_BINDING(name)                                                                   \
    extern const y5_signature y5_signature_##name;                                                 \
    extern const char y5_doc_##name[];                                                             \
    y5_binding y5_py_##name;
#define Y5_DECLARE_PLAIN_BINDING(name)                                                             \
    extern const char y5_doc_##name[];                                                             \
    PyObject *y5_py_##name(y5_state *state);

Y5_BINDINGS(Y5_DECLARE_BINDING)
Y5_PLAIN_BINDINGS(Y5_DECLARE_PLAIN_BINDING)

#define Y5_NOT_REGISTERED "register_torch() was not called"

/* Calls the function of that name as METH_FASTCALL | METH_KEYWORDS has it. */
PyObject *y5_enter(y5_state *state, const char *name, const y5_signature *signature,
                   y5_binding *function, PyObject *const *arguments, Py_ssize_t count,
                   PyObject *keywords);

/* Y5_OK with *result, or Y5_PYTHON_RAISED where it could not be made. */
y5_status y5_give(PyObject *made, PyObject **result);

#endif
