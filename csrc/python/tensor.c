/* Borrowing tensors. Checks every field of a producer before any arithmetic on it. */
#include "python/tensor.h"

#include "python/borrowed.h"
#include "python/errors.h"

#include <stdio.h>
#include <string.h>

/* Where a storage was resized to nothing, a tensor's address is its offset in bytes, which is less
 * than the storage had: so an address below the bytes of the largest storage is looked at twice.
 * 16 TiB, more than any machine has. Linux puts nothing else so low in 47 bits of addresses and
 * more, but for the heap of executables at a fixed address. */
#define LARGEST_STORAGE ((uintptr_t)1 << 44)
/* On a GPU drivers hand out addresses from here on: a storage of more than 8 GiB that was resized
 * to nothing is not told by them. */
#define LOWEST_CUDA_ADDRESS ((uintptr_t)1 << 33)

static const char exchange_table[] = "torch's exchange table";

const void *
y5_find_exchange(PyTypeObject *type)
{
    PyObject *capsule = PyObject_GetAttrString((PyObject *)type, "__dlpack_c_exchange_api__");
    const dlpack_exchange_header *header = NULL;
    if (capsule != NULL && PyCapsule_IsValid(capsule, DLPACK_EXCHANGE_CAPSULE)) {
        header = PyCapsule_GetPointer(capsule, DLPACK_EXCHANGE_CAPSULE);
    }
    Py_XDECREF(capsule); /* the table lives as long as the process */
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_Exception) &&
        !PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_Clear(); /* whatever stands in the way of the table, capsules remain */
    }
    while (header != NULL && header->version.major != 1) {
        header = header->previous;
    }
    const dlpack_exchange_table *table = (const dlpack_exchange_table *)(const void *)header;
    return table != NULL && table->borrow != NULL ? table : NULL;
}

bool
y5_is_plain_tensor(const y5_state *state, PyObject *object)
{
    return Py_TYPE(object) == state->torch.parameter_type ||
           Py_TYPE(object) == state->torch.tensor_type;
}

static bool
find_dtype(dlpack_dtype given, y5_dtype *out)
{
    static const struct {
        uint8_t code;
        uint8_t bits;
        y5_dtype dtype;
    } known[] = {
        {DLPACK_FLOAT, 32, Y5_FLOAT32},
        {DLPACK_FLOAT, 16, Y5_FLOAT16},
        {DLPACK_BFLOAT, 16, Y5_BFLOAT16},
        {DLPACK_FLOAT, 64, Y5_FLOAT64},
        {DLPACK_INT, 64, Y5_INT64},
        {DLPACK_INT, 32, Y5_INT32},
        {DLPACK_INT, 16, Y5_INT16},
        {DLPACK_INT, 8, Y5_INT8},
        {DLPACK_UINT, 64, Y5_INT64},
        {DLPACK_UINT, 32, Y5_INT32},
        {DLPACK_UINT, 16, Y5_INT16},
        {DLPACK_UINT, 8, Y5_INT8},
        {DLPACK_BOOL, 8, Y5_INT8},
        {DLPACK_COMPLEX, 128, Y5_COMPLEX128},
        {DLPACK_COMPLEX, 64, Y5_COMPLEX64},
        {DLPACK_COMPLEX, 32, Y5_COMPLEX32},
        {DLPACK_FLOAT8_E4M3FN, 8, Y5_FLOAT8},
        {DLPACK_FLOAT8_E5M2, 8, Y5_FLOAT8},
        {DLPACK_FLOAT8_E4M3FNUZ, 8, Y5_FLOAT8_FNUZ},
        {DLPACK_FLOAT8_E5M2FNUZ, 8, Y5_FLOAT8_FNUZ},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (given.code == known[i].code && given.bits == known[i].bits && given.lanes == 1) {
            *out = known[i].dtype;
            return true;
        }
    }
    return false;
}

/* numel; false where the elements, or the bytes between two of them, are too many to count. */
static bool
measure(y5_tensor *tensor)
{
    const int64_t limit = INT64_MAX / 32; /* room for the widest element and a sum of two */
    int64_t numel = 1;
    int64_t reach = 0;
    bool empty = false;
    for (int32_t i = 0; i < tensor->ndim; i++) {
        if (tensor->shape[i] < 0) {
            return false;
        }
        empty = empty || tensor->shape[i] == 0;
    }
    if (empty) { /* whatever the other sizes */
        tensor->numel = 0;
        return true;
    }
    for (int32_t i = 0; i < tensor->ndim; i++) {
        int64_t extent = 0;
        if (__builtin_mul_overflow(numel, tensor->shape[i], &numel) || numel > limit ||
            tensor->strides[i] == INT64_MIN ||
            __builtin_mul_overflow(
                tensor->shape[i] - 1,
                tensor->strides[i] < 0 ? -tensor->strides[i] : tensor->strides[i], &extent) ||
            __builtin_add_overflow(reach, extent, &reach) || reach > limit) {
            return false;
        }
    }
    tensor->numel = numel;
    return true;
}

static y5_status
copy_geometry(const dlpack_tensor *given, y5_tensor *tensor, y5_error *error)
{
    if (given->ndim < 0 || given->ndim > Y5_MAX_DIMS) {
        return y5_fail(error, Y5_BAD_VALUE, "", "%d dimensions, allowed are 0 to %d",
                       (int)given->ndim, Y5_MAX_DIMS);
    }
    if (given->ndim > 0 && given->shape == NULL) {
        return y5_fail(error, Y5_BAD_VALUE, "", "%d dimensions but no shape", (int)given->ndim);
    }
    tensor->ndim = given->ndim;
    int64_t row_major = 1;
    for (int32_t i = given->ndim - 1; i >= 0; i--) {
        tensor->shape[i] = given->shape[i];
        tensor->strides[i] = given->strides != NULL ? given->strides[i] : row_major;
        /* Wraps only for shapes that measure() refuses. */
        row_major = (int64_t)((uint64_t)row_major * (uint64_t)given->shape[i]);
    }
    if (!measure(tensor)) {
        return y5_fail(error, Y5_BAD_VALUE, "", "shape or strides are negative or overflow");
    }
    return Y5_OK;
}

/* Checks a producer's description and copies it; nothing of it is used afterwards. */
static y5_status
describe(const dlpack_tensor *given, y5_tensor *tensor, y5_error *error)
{
    if (given->device.type == DLPACK_CUDA) {
        tensor->device = Y5_CUDA;
    } else if (given->device.type == DLPACK_CPU || given->device.type == DLPACK_CUDA_HOST) {
        tensor->device = Y5_CPU;
    } else {
        return y5_fail(error, Y5_BAD_BUFFER, "", "DLPack device type %d, allowed are CPU and CUDA",
                       (int)given->device.type);
    }
    tensor->device_index = given->device.index;
    if (!find_dtype(given->dtype, &tensor->dtype)) {
        return y5_fail(error, Y5_BAD_TYPE, "",
                       "DLPack type code %d, %d bits, %d lanes is not known", given->dtype.code,
                       given->dtype.bits, given->dtype.lanes);
    }
    y5_status status = copy_geometry(given, tensor, error);
    if (status != Y5_OK) {
        return status;
    }
    if (tensor->numel == 0) {
        tensor->data = NULL;
        return Y5_OK;
    }
    if (given->data == NULL || given->byte_offset > (uint64_t)INT64_MAX ||
        (uintptr_t)given->data > UINTPTR_MAX - given->byte_offset) {
        return y5_fail(error, Y5_BAD_BUFFER, "", "elements without memory");
    }
    tensor->data = (char *)given->data + given->byte_offset;
    return Y5_OK;
}

/* Takes the managed tensor out of a capsule and marks the capsule as used. */
static y5_status
open_capsule(PyObject *capsule, const dlpack_tensor **given, y5_loan *loan, y5_error *error)
{
    if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
        loan->versioned = PyCapsule_GetPointer(capsule, "dltensor_versioned");
        PyCapsule_SetName(capsule, "used_dltensor_versioned");
        if (loan->versioned->version.major != 1) {
            return y5_fail(error, Y5_BAD_BUFFER, "", "DLPack major version %u, allowed is 1",
                           (unsigned)loan->versioned->version.major);
        }
        *given = &loan->versioned->tensor;
        return Y5_OK;
    }
    if (PyCapsule_IsValid(capsule, "dltensor")) {
        loan->managed = PyCapsule_GetPointer(capsule, "dltensor");
        PyCapsule_SetName(capsule, "used_dltensor");
        *given = &loan->managed->tensor;
        return Y5_OK;
    }
    return y5_fail(error, Y5_BAD_VALUE, "", "not an unused DLPack capsule");
}

void
y5_return(y5_loan *loan)
{
    if (loan->managed == NULL && loan->versioned == NULL) {
        return;
    }
    PyObject *type = NULL;
    PyObject *value = NULL;
    PyObject *traceback = NULL;
    PyErr_Fetch(&type, &value, &traceback);
    if (loan->managed != NULL && loan->managed->deleter != NULL) {
        loan->managed->deleter(loan->managed);
    }
    if (loan->versioned != NULL && loan->versioned->deleter != NULL) {
        loan->versioned->deleter(loan->versioned);
    }
    loan->managed = NULL;
    loan->versioned = NULL;
    PyErr_Restore(type, value, traceback);
}

bool
y5_may_be_gone(const y5_tensor *tensor)
{
    uintptr_t low = tensor->device == Y5_CUDA ? LOWEST_CUDA_ADDRESS : LARGEST_STORAGE;
    return tensor->numel > 0 && (uintptr_t)tensor->data < low;
}

y5_status
y5_borrow(const y5_state *state, PyObject *object, y5_tensor *tensor, y5_loan *loan,
          y5_error *error)
{
    const dlpack_exchange_table *exchange = state->torch.exchange;
    const dlpack_tensor *given = NULL;
    dlpack_tensor borrowed;
    y5_status status = Y5_OK;
    if (exchange != NULL) {
        if (exchange->borrow(object, &borrowed) != 0) {
            return y5_raised_by(exchange_table, error);
        }
        given = &borrowed;
    } else if (state->torch.to_dlpack == NULL) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "this torch describes no tensors");
    } else {
        PyObject *capsule = (PyObject_CallFunctionObjArgs)(state->torch.to_dlpack, object, NULL);
        if (capsule == NULL) {
            return y5_raised_by("torch's to_dlpack", error);
        }
        status = open_capsule(capsule, &given, loan, error);
        Py_DecRef(capsule); /* empty: nothing is released with it */
    }
    if (status == Y5_OK && given != NULL) {
        status = describe(given, tensor, error);
    }
    return status == Y5_OK ? Y5_OK : Y5_UNSUPPORTED; /* torch's tensors are never at fault */
}

y5_status
y5_current_stream(const y5_state *state, int32_t device_index, void **stream, y5_error *error)
{
    const dlpack_exchange_table *exchange = state->torch.exchange;
    if (exchange != NULL && exchange->current_stream != NULL) {
        return exchange->current_stream(DLPACK_CUDA, device_index, stream) == 0
                   ? Y5_OK
                   : y5_raised_by(exchange_table, error);
    }
    if (state->torch.current_stream == NULL) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "this torch does not name its current stream");
    }
    PyObject *index = PyLong_FromLong(device_index);
    PyObject *answer =
        index != NULL ? (PyObject_CallFunctionObjArgs)(state->torch.current_stream, index, NULL)
                      : NULL;
    *stream = answer != NULL ? PyLong_AsVoidPtr(answer) : NULL;
    Py_DecRef(index);
    Py_DecRef(answer);
    return PyErr_Occurred() ? y5_raised_by("torch's current stream", error) : Y5_OK;
}

/* object.__dlpack__(max_version=(1, 0)), or without the argument where it is not known. */
static PyObject *
ask_for_capsule(const y5_state *state, PyObject *object)
{
    PyObject *method = PyObject_GetAttr(object, state->names[Y5_NAME_DLPACK]);
    if (method == NULL) {
        return NULL;
    }
    PyObject *capsule = NULL;
    PyObject *none = PyTuple_New(0);
    PyObject *keywords = PyDict_New();
    PyObject *version = Py_BuildValue("(ii)", 1, 0);
    if (none == NULL || keywords == NULL || version == NULL ||
        PyDict_SetItem(keywords, state->names[Y5_NAME_MAX_VERSION], version) < 0) {
        goto done;
    }
    capsule = PyObject_Call(method, none, keywords);
    if (capsule == NULL && PyErr_Occurred() == PyExc_TypeError && y5_exception_says("argument")) {
        capsule = PyObject_CallNoArgs(method);
    }
done:
    Py_XDECREF(version);
    Py_XDECREF(keywords);
    Py_XDECREF(none);
    Py_DECREF(method);
    return capsule;
}

/* Y5_OK where object.__dlpack_device__() names memory the CPU can read. */
static y5_status
check_device(const y5_state *state, PyObject *object, y5_error *error)
{
    PyObject *method = PyObject_GetAttr(object, state->names[Y5_NAME_DLPACK_DEVICE]);
    if (method == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Format(PyExc_TypeError,
                         "tensor: expected a torch.Tensor or an object with __dlpack__, got %R",
                         (PyObject *)Py_TYPE(object));
        }
        return Y5_PYTHON_RAISED;
    }
    PyObject *pair = PyObject_CallNoArgs(method);
    Py_DECREF(method);
    if (pair == NULL) {
        return Y5_PYTHON_RAISED;
    }
    PyObject *first = PySequence_GetItem(pair, 0);
    Py_DECREF(pair);
    long type = first != NULL ? PyLong_AsLong(first) : -1;
    Py_XDECREF(first);
    if (PyErr_Occurred()) {
        return Y5_PYTHON_RAISED;
    }
    if (type != DLPACK_CPU && type != DLPACK_CUDA_HOST) {
        return y5_fail(error, Y5_BAD_BUFFER, "",
                       "DLPack device type %ld, allowed is memory of the CPU", type);
    }
    return Y5_OK;
}

y5_status
y5_borrow_foreign(const y5_state *state, PyObject *object, y5_tensor *tensor, y5_loan *loan,
                  y5_error *error)
{
    bool is_torch_tensor =
        state->torch.tensor_type != NULL && PyObject_TypeCheck(object, state->torch.tensor_type);
    y5_status status = check_device(state, object, error);
    int gone = status == Y5_OK && is_torch_tensor ? y5_storage_is_gone(state, object) : 0;
    if (gone != 0) {
        return gone < 0 ? Y5_PYTHON_RAISED : y5_fail(error, Y5_BAD_BUFFER, "", Y5_STORAGE_IS_GONE);
    }
    if (status != Y5_OK) {
        return status;
    }
    PyObject *capsule = ask_for_capsule(state, object);
    if (capsule == NULL) {
        return Y5_PYTHON_RAISED;
    }
    const dlpack_tensor *given = NULL;
    status = open_capsule(capsule, &given, loan, error);
    Py_DECREF(capsule);
    if (status == Y5_OK && given != NULL) {
        status = describe(given, tensor, error);
    }
    if (status == Y5_OK && tensor->device != Y5_CPU) {
        status = y5_fail(error, Y5_BAD_BUFFER, "", "a CUDA pointer, expected memory of the CPU");
    }
    if (status != Y5_OK) {
        y5_return(loan);
    }
    return status;
}
