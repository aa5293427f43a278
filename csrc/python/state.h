/* The module's state: everything this extension remembers between calls. Filled at import and by
 * register_torch; afterwards only the three settings change, through configure(), what is known
 * of the CUDA library, and the trails of walks, which are hints. */
#ifndef Y5_STATE_H
#define Y5_STATE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "core/levels.h"
#include "core/parallel.h"
#include "core/y5.h"

#include <stdatomic.h>

/* Interned attribute names.
 *
 * The first ones are nn.Module methods whose override makes a C walk differ from the Python one:
 * those behind state_dict(), then those behind parameters(). In each group, torch calls the first
 * ones on every module of a tree, so that an attribute of that name on an instance counts too. */
#define Y5_NAMES(X)                                                                                \
    X(Y5_METHOD_STATE_DICT, "state_dict")                                                          \
    X(Y5_METHOD_SAVE_TO_STATE_DICT, "_save_to_state_dict")                                         \
    X(Y5_METHOD_GET_EXTRA_STATE, "get_extra_state")                                                \
    X(Y5_METHOD_NAMED_MODULES, "named_modules")                                                    \
    X(Y5_METHOD_PARAMETERS, "parameters")                                                          \
    X(Y5_METHOD_NAMED_PARAMETERS, "named_parameters")                                              \
    X(Y5_METHOD_NAMED_MEMBERS, "_named_members")                                                   \
    X(Y5_METHOD_HASH, "__hash__")                                                                  \
    X(Y5_METHOD_EQUAL, "__eq__")                                                                   \
    X(Y5_NAME_PARAMETERS, "_parameters")                                                           \
    X(Y5_NAME_BUFFERS, "_buffers")                                                                 \
    X(Y5_NAME_MODULES, "_modules")                                                                 \
    X(Y5_NAME_NON_PERSISTENT, "_non_persistent_buffers_set")                                       \
    X(Y5_NAME_HOOKS, "_state_dict_hooks")                                                          \
    X(Y5_NAME_PRE_HOOKS, "_state_dict_pre_hooks")                                                  \
    X(Y5_NAME_GETATTRIBUTE, "__getattribute__")                                                    \
    X(Y5_NAME_DTYPE, "dtype")                                                                      \
    X(Y5_NAME_IS_FLOATING_POINT, "is_floating_point")                                              \
    X(Y5_NAME_NBYTES, "nbytes")                                                                    \
    X(Y5_NAME_DLPACK, "__dlpack__")                                                                \
    X(Y5_NAME_DLPACK_DEVICE, "__dlpack_device__")                                                  \
    X(Y5_NAME_MAX_VERSION, "max_version")                                                          \
    X(Y5_NAME_CUDA, "cuda")                                                                        \
    X(Y5_NAME_IS_AVAILABLE, "is_available")                                                        \
    X(Y5_NAME_SYNCHRONIZE, "synchronize")                                                          \
    X(Y5_NAME_TIME, "time")                                                                        \
    X(Y5_NAME_INITIALIZED, "_initialized")                                                         \
    X(Y5_NAME_IS_IN_BAD_FORK, "_is_in_bad_fork")                                                   \
    X(Y5_NAME_GET_DEVICE_COUNT, "_cuda_getDeviceCount")                                            \
    X(Y5_NAME_CUDA_SYNCHRONIZE, "_cuda_synchronize")                                               \
    X(Y5_NAME_WEIGHT, "weight")                                                                    \
    X(Y5_NAME_BIAS, "bias")                                                                        \
    X(Y5_NAME_RUNNING_MEAN, "running_mean")                                                        \
    X(Y5_NAME_RUNNING_VAR, "running_var")                                                          \
    X(Y5_NAME_EPS, "eps")                                                                          \
    X(Y5_NAME_REQUIRES_GRAD, "requires_grad")                                                      \
    X(Y5_NAME_CLASS, "__class__")                                                                  \
    X(Y5_NAME_DICT, "__dict__")                                                                    \
    X(Y5_NAME_REVERSED_PADDING, "_reversed_padding_repeated_twice")                                \
    /* in the order of Y5_FIELD_IN_CHANNELS and so on */                                           \
    X(Y5_NAME_IN_CHANNELS, "in_channels")                                                          \
    X(Y5_NAME_OUT_CHANNELS, "out_channels")                                                        \
    X(Y5_NAME_KERNEL_SIZE, "kernel_size")                                                          \
    X(Y5_NAME_STRIDE, "stride")                                                                    \
    X(Y5_NAME_PADDING, "padding")                                                                  \
    X(Y5_NAME_DILATION, "dilation")                                                                \
    X(Y5_NAME_GROUPS, "groups")

#define Y5_ENUMERATE_NAME(constant, name) constant,
enum { Y5_NAMES(Y5_ENUMERATE_NAME) Y5_NAME_COUNT, Y5_METHOD_COUNT = Y5_METHOD_EQUAL + 1 };

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
enum {
    Y5_OBJECT_COUNT = 0 Y5_TORCH_OBJECTS(Y5_COUNT_OBJECT),
    Y5_OWNED_COUNT = Y5_OBJECT_COUNT + Y5_METHOD_COUNT + Y5_CLOCK_COUNT
};

/* What is known of the torch that was registered. Objects are NULL before that. */
typedef struct {
    union {
        struct {
            Y5_TORCH_OBJECTS(Y5_DECLARE_OBJECT)
            PyObject *methods[Y5_METHOD_COUNT]; /* nn.Module's own; NULL where torch lacks one */
            PyObject *clock[Y5_CLOCK_COUNT];
        };
        PyObject *owned[Y5_OWNED_COUNT]; /* the same, one after another */
    };
    PyObject *clock_dicts[Y5_CLOCK_MODULES]; /* of its modules, which own them */
    const void *exchange;          /* the tensor type's table, for tensor.c; NULL: none, declined */
    y5_pool_function parallel_for; /* NULL: this torch exports none */
    int32_t (*get_num_threads)(uint32_t *out);
    int32_t impl_offset;     /* of the C++ tensor in a tensor object, for trail.c; 0: not known */
    int32_t storage_in_impl; /* of the storage in the C++ tensor, likewise */
    bool increments_lists;   /* increment_version takes a list, not one tensor */
    bool half_scalars_stay_float32; /* float16/bfloat16 arithmetic as in torch 2.1 and later */
} y5_torch;

struct y5_cuda;
struct y5_retired;
struct y5_trail;

#define Y5_AGREED 16 /* threads remembered, more or less: by the upper 4 bits of their number */

typedef struct {
    PyObject *unsupported;   /* the exception type */
    struct y5_cuda *cuda;    /* the CUDA library, cuda_loader.c's */
    struct y5_trail *trails; /* of the last walks, trail.c's */
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
