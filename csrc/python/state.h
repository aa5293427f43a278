/* The module's state: everything this extension remembers between calls. Filled at import and by
 * register_torch; afterwards only the three settings change, through configure(), and what is
 * known of the CUDA library. */
#ifndef Y5_STATE_H
#define Y5_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "core/levels.h"
#include "core/parallel.h"

#include <stdatomic.h>

/* nn.Module methods whose override makes a C walk differ from the Python one: first those behind
 * state_dict(), then those behind parameters(). In each group, torch calls the first ones on every
 * module of a tree, so that an attribute of that name on an instance counts too. */
enum {
    Y5_METHOD_STATE_DICT,
    Y5_METHOD_SAVE_TO_STATE_DICT,
    Y5_METHOD_GET_EXTRA_STATE,
    Y5_METHOD_NAMED_MODULES,
    Y5_METHOD_PARAMETERS,
    Y5_METHOD_NAMED_PARAMETERS,
    Y5_METHOD_NAMED_MEMBERS,
    Y5_METHOD_HASH,
    Y5_METHOD_EQUAL,
    Y5_METHOD_COUNT
};

/* Interned attribute names. */
enum {
    Y5_NAME_PARAMETERS = Y5_METHOD_COUNT, /* "_parameters"; the methods' own names come first */
    Y5_NAME_BUFFERS,
    Y5_NAME_MODULES,
    Y5_NAME_NON_PERSISTENT,
    Y5_NAME_HOOKS,
    Y5_NAME_PRE_HOOKS,
    Y5_NAME_GETATTRIBUTE,
    Y5_NAME_DTYPE,
    Y5_NAME_IS_FLOATING_POINT,
    Y5_NAME_NBYTES,
    Y5_NAME_DLPACK,
    Y5_NAME_DLPACK_DEVICE,
    Y5_NAME_MAX_VERSION,
    Y5_NAME_CUDA,
    Y5_NAME_IS_AVAILABLE,
    Y5_NAME_SYNCHRONIZE,
    Y5_NAME_TIME,
    Y5_NAME_INITIALIZED,
    Y5_NAME_IS_IN_BAD_FORK,
    Y5_NAME_GET_DEVICE_COUNT,
    Y5_NAME_CUDA_SYNCHRONIZE,
    Y5_NAME_WEIGHT,
    Y5_NAME_BIAS,
    Y5_NAME_RUNNING_MEAN,
    Y5_NAME_RUNNING_VAR,
    Y5_NAME_EPS,
    Y5_NAME_REQUIRES_GRAD,
    Y5_NAME_CLASS,
    Y5_NAME_REVERSED_PADDING,
    Y5_NAME_IN_CHANNELS, /* from here in the order of Y5_FIELD_IN_CHANNELS and so on */
    Y5_NAME_OUT_CHANNELS,
    Y5_NAME_KERNEL_SIZE,
    Y5_NAME_STRIDE,
    Y5_NAME_PADDING,
    Y5_NAME_DILATION,
    Y5_NAME_GROUPS,
    Y5_NAME_COUNT
};

/* What time_synchronized looks at: modules first, then the functions it knows by heart. */
enum {
    Y5_CLOCK_TORCH,
    Y5_CLOCK_TORCH_C,
    Y5_CLOCK_CUDA,
    Y5_CLOCK_TIME,
    Y5_CLOCK_IS_AVAILABLE,
    Y5_CLOCK_SYNCHRONIZE,
    Y5_CLOCK_TIME_TIME,
    Y5_CLOCK_COUNT,
    Y5_CLOCK_MODULES = Y5_CLOCK_IS_AVAILABLE /* so many modules */
};

/* The objects of torch that are known, as (C type, name, where from, attribute there). Where from:
 *   TYPE    the facts that are registered; a type
 *   FACT    likewise; any object, NULL for None
 *   IN_C    likewise, but NULL for what is not written in C: so it runs no Python code
 *   TENSOR  the tensors' base, which is C and cannot be changed; NULL where this torch lacks it
 *   MODULE  nn.Module */
#define Y5_TORCH_OBJECTS(X)                                                                        \
    X(PyTypeObject, tensor_type, TYPE, "tensor_type")                                              \
    X(PyTypeObject, parameter_type, TYPE, "parameter_type")                                        \
    X(PyTypeObject, tensor_base, TYPE, "tensor_base")                                              \
    X(PyTypeObject, module_type, TYPE, "module_type")                                              \
    X(PyTypeObject, convolution_type, TYPE, "convolution_type")                                    \
    X(PyTypeObject, batch_norm_type, TYPE, "batch_norm_type")                                      \
    /* of modules in torch before 2.4 */                                                           \
    X(PyTypeObject, ordered_dict_type, TYPE, "ordered_dict_type")                                  \
    X(PyObject, getattribute, MODULE, "__getattribute__")                                          \
    /* tuple of (callable, reason): torch must run if true */                                      \
    X(PyObject, guards, FACT, "guards")                                                            \
    X(PyObject, empty, FACT, "empty")                                                              \
    X(PyObject, empty_like, FACT, "empty_like")                                                    \
    X(PyObject, is_grad_enabled, FACT, "is_grad_enabled")                                          \
    /* tuple of the dtypes of one whole byte */                                                    \
    X(PyObject, byte_types, FACT, "byte_types")                                                    \
    /* what raises a version without increment_version: (detach, as_strided, zero_) */             \
    X(PyObject, version_methods, FACT, "version_methods")                                          \
    /* (bytes, CUDA device index) -> a tensor of so many bytes there */                            \
    X(PyObject, allocate, FACT, "allocate")                                                        \
    /* called with a tensor about to be written, or a list of them */                              \
    X(PyObject, increment_version, IN_C, "increment_version")                                      \
    /* tensor -> capsule, where there is no exchange table */                                      \
    X(PyObject, to_dlpack, IN_C, "to_dlpack")                                                      \
    /* CUDA device index -> its current stream, likewise */                                        \
    X(PyObject, current_stream, IN_C, "current_stream")                                            \
    X(PyObject, is_neg, TENSOR, "is_neg")                                                          \
    X(PyObject, storage_offset, TENSOR, "storage_offset")                                          \
    X(PyObject, untyped_storage, TENSOR, "untyped_storage")                                        \
    X(PyObject, sqrt_in_place, TENSOR, "sqrt_")

#define Y5_COUNT_OBJECT(type, name, from, attribute) +1
#define Y5_DECLARE_OBJECT(type, name, from, attribute) type *name;
enum { Y5_OBJECT_COUNT = 0 Y5_TORCH_OBJECTS(Y5_COUNT_OBJECT) };

/* What is known of the torch that was registered. Objects are NULL before that. */
typedef struct {
    union {
        struct {
            Y5_TORCH_OBJECTS(Y5_DECLARE_OBJECT)
        };
        PyObject *objects[Y5_OBJECT_COUNT];
    };
    PyObject *methods[Y5_METHOD_COUNT]; /* nn.Module's own; NULL where this torch lacks one */
    PyObject *clock[Y5_CLOCK_COUNT];
    PyObject *clock_dicts[Y5_CLOCK_MODULES]; /* of its modules, which own them */
    const void *exchange;          /* the tensor type's table, for tensor.c; NULL: none, declined */
    y5_pool_function parallel_for; /* NULL: this torch exports none */
    int32_t (*get_num_threads)(uint32_t *out);
    bool increments_lists;          /* increment_version takes a list, not one tensor */
    bool half_scalars_stay_float32; /* float16/bfloat16 arithmetic as in torch 2.1 and later */
} y5_torch;

struct y5_cuda;
struct y5_retired;

#define Y5_AGREED 16 /* threads remembered, more or less: by the upper 4 bits of their number */

typedef struct {
    PyObject *unsupported; /* the exception type */
    struct y5_cuda *cuda;  /* the CUDA library, cuda_loader.c's */
    PyObject *names[Y5_NAME_COUNT];
    y5_torch torch;
    struct y5_retired *retired;     /* what torch was before it was registered again */
    int64_t calls;                  /* in progress, which may use it; under the GIL */
    long process;                   /* that imported us: a fork child must not use the pool */
    _Atomic int32_t level;          /* the active instruction level */
    _Atomic int64_t parallel_bytes; /* a call that moves less runs on the calling thread */
    _Atomic int64_t gil_bytes;      /* a call that moves less keeps the GIL */
    _Atomic uint64_t *agreed;       /* torch_runtime.c's: who has asked the pool and may go on */
    _Atomic int64_t clock_calls;    /* of time_synchronized so far */
} y5_state;

#endif
