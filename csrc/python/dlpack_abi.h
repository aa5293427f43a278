/* The part of DLPack's C ABI this package exchanges: versions 0.6 to 1.x, LP64. Written from the
 * published layout; tests/native compares it with the header of the installed torch.
 * Declarations only; knows neither torch nor Python. */
#ifndef Y5_DLPACK_ABI_H
#define Y5_DLPACK_ABI_H

#include <stddef.h>
#include <stdint.h>

/* Device types. */
enum { DLPACK_CPU = 1, DLPACK_CUDA = 2, DLPACK_CUDA_HOST = 3 };

/* Element type codes; a type is code, bits and lanes. */
enum {
    DLPACK_INT = 0,
    DLPACK_UINT = 1,
    DLPACK_FLOAT = 2,
    DLPACK_BFLOAT = 4,
    DLPACK_COMPLEX = 5,
    DLPACK_BOOL = 6,
    DLPACK_FLOAT8_E4M3FN = 10,
    DLPACK_FLOAT8_E4M3FNUZ = 11,
    DLPACK_FLOAT8_E5M2 = 12,
    DLPACK_FLOAT8_E5M2FNUZ = 13,
};

/* Flags of a versioned tensor. */
#define DLPACK_FLAG_READ_ONLY ((uint64_t)1)

typedef struct {
    int32_t type;
    int32_t index;
} dlpack_device;

typedef struct {
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
} dlpack_dtype;

typedef struct {
    void *data;
    dlpack_device device;
    int32_t ndim;
    dlpack_dtype dtype;
    int64_t *shape;
    int64_t *strides; /* in elements; NULL means row-major without gaps */
    uint64_t byte_offset;
} dlpack_tensor;

/* What a capsule "dltensor" holds. The consumer calls `deleter` (which may be NULL) once. */
typedef struct dlpack_managed {
    dlpack_tensor tensor;
    void *context;
    void (*deleter)(struct dlpack_managed *self);
} dlpack_managed;

typedef struct {
    uint32_t major;
    uint32_t minor;
} dlpack_version;

/* What a capsule "dltensor_versioned" holds. Only `version` and `deleter` may be read where the
 * major version is unknown. */
typedef struct dlpack_managed_versioned {
    dlpack_version version;
    void *context;
    void (*deleter)(struct dlpack_managed_versioned *self);
    uint64_t flags;
    dlpack_tensor tensor;
} dlpack_managed_versioned;

/* Head of an exchange table, the same in every version. */
typedef struct dlpack_exchange_header {
    dlpack_version version;
    struct dlpack_exchange_header *previous; /* a table of an older major version, or NULL */
} dlpack_exchange_header;

/* A tensor type's exchange table, major version 1: lives as long as the process. Functions need
 * the GIL, return 0, or -1 with a Python exception set. */
typedef struct {
    dlpack_exchange_header header;
    void (*allocate)(void);            /* not used here: only its place matters */
    void (*managed_from_python)(void); /* likewise */
    void (*managed_to_python)(void);   /* likewise */
    /* Fills `out`; nothing is owned, shape and strides belong to the tensor. May be NULL. */
    int (*borrow)(void *object, dlpack_tensor *out);
    /* The stream the producer would launch on. May be NULL. */
    int (*current_stream)(int32_t device_type, int32_t device_index, void **out);
} dlpack_exchange_table;

#define DLPACK_EXCHANGE_CAPSULE "dlpack_exchange_api"

_Static_assert(sizeof(dlpack_tensor) == 48, "DLTensor");
_Static_assert(offsetof(dlpack_tensor, dtype) == 20, "DLTensor.dtype");
_Static_assert(offsetof(dlpack_tensor, byte_offset) == 40, "DLTensor.byte_offset");
_Static_assert(sizeof(dlpack_managed) == 64, "DLManagedTensor");
_Static_assert(offsetof(dlpack_managed_versioned, tensor) == 32, "DLManagedTensorVersioned");
_Static_assert(offsetof(dlpack_exchange_table, borrow) == 40, "DLPackExchangeAPI");

#endif
