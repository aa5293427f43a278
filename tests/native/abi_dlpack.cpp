// Our declarations of DLPack against those of the installed torch: every enumerator, every field's
// place and type, every function pointer. Only compiled, never run; compiles where both agree.
#include <ATen/dlpack.h>

#include <type_traits>

// The header's own assertions compare it with numbers; here it is compared with torch alone.
#define _Static_assert(condition, message) static_assert(true, message)
#include "python/dlpack_abi.h"

// torch's types in our words. An enumeration is passed like the integer under it.
template <class T, bool = std::is_enum_v<T>> struct in_our_words {
    using type = T;
};
template <class T> using ours_t = typename in_our_words<T>::type;
template <class T> struct in_our_words<T, true> : std::underlying_type<T> {
};
template <class T> struct in_our_words<T *, false> {
    using type = ours_t<T> *;
};
template <class R, class... A> struct in_our_words<R(A...), false> {
    using type = ours_t<R>(ours_t<A>...);
};
#define OURS(theirs, ours)                                                                         \
    template <> struct in_our_words<theirs, false> {                                               \
        using type = ours;                                                                         \
    }
OURS(DLDevice, dlpack_device);
OURS(DLDataType, dlpack_dtype);
OURS(DLTensor, dlpack_tensor);
OURS(DLManagedTensor, dlpack_managed);
OURS(DLPackVersion, dlpack_version);
OURS(DLManagedTensorVersioned, dlpack_managed_versioned);
OURS(DLPackExchangeAPIHeader, dlpack_exchange_header);

#define SAME_NUMBER(ours, theirs)                                                                  \
    static_assert(static_cast<uint64_t>(ours) == static_cast<uint64_t>(theirs), "number " #theirs)
#define SAME_SIZE(ours, theirs)                                                                    \
    static_assert(sizeof(ours) == sizeof(theirs) && alignof(ours) == alignof(theirs),              \
                  "size " #theirs)
#define SAME_PLACE(ours, field, theirs, their_field)                                               \
    static_assert(offsetof(ours, field) == offsetof(theirs, their_field),                          \
                  "place " #theirs "." #their_field)
#define SAME_FIELD(ours, field, theirs, their_field)                                               \
    SAME_PLACE(ours, field, theirs, their_field);                                                  \
    static_assert(std::is_same_v<decltype(ours::field), ours_t<decltype(theirs::their_field)>>,    \
                  "type " #theirs "." #their_field)

SAME_NUMBER(DLPACK_CPU, kDLCPU);
SAME_NUMBER(DLPACK_CUDA, kDLCUDA);
SAME_NUMBER(DLPACK_CUDA_HOST, kDLCUDAHost);

SAME_NUMBER(DLPACK_INT, kDLInt);
SAME_NUMBER(DLPACK_UINT, kDLUInt);
SAME_NUMBER(DLPACK_FLOAT, kDLFloat);
SAME_NUMBER(DLPACK_BFLOAT, kDLBfloat);
SAME_NUMBER(DLPACK_COMPLEX, kDLComplex);
SAME_NUMBER(DLPACK_BOOL, kDLBool);
SAME_NUMBER(DLPACK_FLOAT8_E4M3FN, kDLFloat8_e4m3fn);
SAME_NUMBER(DLPACK_FLOAT8_E4M3FNUZ, kDLFloat8_e4m3fnuz);
SAME_NUMBER(DLPACK_FLOAT8_E5M2, kDLFloat8_e5m2);
SAME_NUMBER(DLPACK_FLOAT8_E5M2FNUZ, kDLFloat8_e5m2fnuz);

SAME_NUMBER(DLPACK_FLAG_READ_ONLY, DLPACK_FLAG_BITMASK_READ_ONLY);

SAME_SIZE(dlpack_device, DLDevice);
SAME_FIELD(dlpack_device, type, DLDevice, device_type);
SAME_FIELD(dlpack_device, index, DLDevice, device_id);

SAME_SIZE(dlpack_dtype, DLDataType);
SAME_FIELD(dlpack_dtype, code, DLDataType, code);
SAME_FIELD(dlpack_dtype, bits, DLDataType, bits);
SAME_FIELD(dlpack_dtype, lanes, DLDataType, lanes);

SAME_SIZE(dlpack_tensor, DLTensor);
SAME_FIELD(dlpack_tensor, data, DLTensor, data);
SAME_FIELD(dlpack_tensor, device, DLTensor, device);
SAME_FIELD(dlpack_tensor, ndim, DLTensor, ndim);
SAME_FIELD(dlpack_tensor, dtype, DLTensor, dtype);
SAME_FIELD(dlpack_tensor, shape, DLTensor, shape);
SAME_FIELD(dlpack_tensor, strides, DLTensor, strides);
SAME_FIELD(dlpack_tensor, byte_offset, DLTensor, byte_offset);

SAME_SIZE(dlpack_managed, DLManagedTensor);
SAME_FIELD(dlpack_managed, tensor, DLManagedTensor, dl_tensor);
SAME_FIELD(dlpack_managed, context, DLManagedTensor, manager_ctx);
SAME_FIELD(dlpack_managed, deleter, DLManagedTensor, deleter);

SAME_SIZE(dlpack_version, DLPackVersion);
SAME_FIELD(dlpack_version, major, DLPackVersion, major);
SAME_FIELD(dlpack_version, minor, DLPackVersion, minor);

SAME_SIZE(dlpack_managed_versioned, DLManagedTensorVersioned);
SAME_FIELD(dlpack_managed_versioned, version, DLManagedTensorVersioned, version);
SAME_FIELD(dlpack_managed_versioned, context, DLManagedTensorVersioned, manager_ctx);
SAME_FIELD(dlpack_managed_versioned, deleter, DLManagedTensorVersioned, deleter);
SAME_FIELD(dlpack_managed_versioned, flags, DLManagedTensorVersioned, flags);
SAME_FIELD(dlpack_managed_versioned, tensor, DLManagedTensorVersioned, dl_tensor);

SAME_SIZE(dlpack_exchange_header, DLPackExchangeAPIHeader);
SAME_FIELD(dlpack_exchange_header, version, DLPackExchangeAPIHeader, version);
SAME_FIELD(dlpack_exchange_header, previous, DLPackExchangeAPIHeader, prev_api);

// The slots that are called have the same types; of the others only the place matters.
SAME_SIZE(dlpack_exchange_table, DLPackExchangeAPI);
SAME_FIELD(dlpack_exchange_table, header, DLPackExchangeAPI, header);
SAME_PLACE(dlpack_exchange_table, allocate, DLPackExchangeAPI, managed_tensor_allocator);
SAME_PLACE(dlpack_exchange_table, managed_from_python, DLPackExchangeAPI,
           managed_tensor_from_py_object_no_sync);
SAME_PLACE(dlpack_exchange_table, managed_to_python, DLPackExchangeAPI,
           managed_tensor_to_py_object_no_sync);
SAME_FIELD(dlpack_exchange_table, borrow, DLPackExchangeAPI, dltensor_from_py_object_no_sync);
SAME_FIELD(dlpack_exchange_table, current_stream, DLPackExchangeAPI, current_work_stream);
