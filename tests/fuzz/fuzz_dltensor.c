/* The validator of DLPack tensors against the same rules in 128 bits: what it accepts, why it
 * refuses, what it makes of the rest; and that counting the zeros of what it accepts reads those
 * elements and no others. The file itself is included, since the validator is its own affair. Runs
 * no Python. */
#include "python/tensor.c"

#include "core/ops.h"
#include "fuzz.h"

#define ROOM 16 /* dimensions in memory; more are only said to be there */
#define MOST_ELEMENTS 4096
#define MOST_BYTES 65536

static const int64_t limit = INT64_MAX / 32;

static dlpack_dtype
take_dtype(input *from)
{
    static const dlpack_dtype known[] = {
        {2, 32, 1}, {2, 16, 1}, {4, 16, 1}, {2, 64, 1}, {0, 8, 1},  {0, 64, 1},
        {1, 8, 1},  {1, 16, 1}, {6, 8, 1},  {5, 64, 1}, {5, 32, 1}, {5, 128, 1},
        {0, 32, 1}, {10, 8, 1}, {11, 8, 1}, {12, 8, 1}, {13, 8, 1}};
    uint64_t kind = take_bits(from, 1);
    return kind < 224 ? known[kind % (sizeof(known) / sizeof(known[0]))]
                      : (dlpack_dtype){(uint8_t)take_bits(from, 1), (uint8_t)take_bits(from, 1),
                                       (uint16_t)take_bits(from, 1)};
}

static int64_t *
take_sizes(input *from, int32_t count)
{
    int64_t *sizes = allocate(count * (int64_t)sizeof(*sizes));
    for (int32_t i = 0; i < count; i++) {
        uint64_t size = (uint64_t)take_size(from);
        sizes[i] = (int64_t)(size - (take_bits(from, 1) % 8 == 0 ? 3 : 0));
    }
    return sizes;
}

static dlpack_tensor
take_description(input *from)
{
    static const int32_t odd[] = {-1, INT32_MIN, INT32_MAX, Y5_MAX_DIMS, Y5_MAX_DIMS + 1, ROOM};
    uint64_t flags = take_bits(from, 1);
    dlpack_tensor given = {.device = {DLPACK_CPU, 0}, .dtype = take_dtype(from)};
    given.ndim =
        flags % 16 == 0 ? odd[take_between(from, 0, 5)] : (int32_t)take_between(from, 0, 5);
    if (take_bits(from, 1) % 32 == 0) {
        given.device.type = (int32_t)take_bits(from, 4);
    }
    int32_t held = given.ndim > 0 && given.ndim <= ROOM ? given.ndim : 0;
    given.shape = take_sizes(from, held);
    given.strides = flags & 32 ? NULL : take_sizes(from, held);
    given.shape = flags >> 6 == 3 ? NULL : given.shape;
    given.byte_offset = flags & 16 ? (uint64_t)take_size(from) : 0;
    return given;
}

/* The rules: shape and strides. */
static bool
geometry_is_right(const dlpack_tensor *given, int64_t *numel, int64_t reach[2])
{
    __int128 elements = 1;
    __int128 reaches[2] = {0, 0};
    bool empty = false;
    for (int32_t i = 0; i < given->ndim; i++) {
        if (given->shape[i] < 0) {
            return false;
        }
        empty = empty || given->shape[i] == 0;
    }
    for (int32_t i = 0; i < given->ndim && !empty; i++) {
        elements *= given->shape[i];
        if (elements > limit) {
            return false;
        }
    }
    __int128 row_major = 1;
    for (int32_t i = given->ndim - 1; i >= 0 && !empty; i--) {
        __int128 stride = given->strides != NULL ? given->strides[i] : row_major;
        __int128 extent = (given->shape[i] - 1) * stride;
        reaches[extent > 0] += extent;
        row_major *= given->shape[i];
        if (reaches[1] - reaches[0] > limit || stride == INT64_MIN) {
            return false;
        }
    }
    *numel = empty ? 0 : (int64_t)elements;
    reach[0] = (int64_t)reaches[0];
    reach[1] = (int64_t)reaches[1];
    return true;
}

static y5_status
expected_status(const dlpack_tensor *given, int64_t *numel, int64_t reach[2])
{
    y5_dtype dtype = 0;
    int32_t device = given->device.type;
    if (device != 1 && device != 2 && device != 3) { /* CPU, CUDA, CUDA's host memory */
        return Y5_BAD_BUFFER;
    }
    if (!find_dtype(given->dtype, &dtype)) {
        return Y5_BAD_TYPE;
    }
    if (given->ndim < 0 || given->ndim > Y5_MAX_DIMS || (given->shape == NULL && given->ndim > 0) ||
        !geometry_is_right(given, numel, reach)) {
        return Y5_BAD_VALUE;
    }
    __int128 address = (__int128)(uintptr_t)given->data + given->byte_offset;
    bool nowhere = given->data == NULL || given->byte_offset >> 63 != 0 || address > UINTPTR_MAX;
    return *numel > 0 && nowhere ? Y5_BAD_BUFFER : Y5_OK;
}

/* True for bytes that are 0, or the sign of a number that has a negative zero. */
static bool
is_zero(const uint8_t *element, dlpack_dtype dtype)
{
    int32_t bytes = dtype.bits / 8;
    int32_t part = dtype.code == DLPACK_COMPLEX ? bytes / 2 : bytes;
    bool signed_zero = dtype.code == DLPACK_FLOAT || dtype.code == DLPACK_BFLOAT ||
                       dtype.code == DLPACK_COMPLEX || dtype.code == DLPACK_FLOAT8_E4M3FN ||
                       dtype.code == DLPACK_FLOAT8_E5M2;
    for (int32_t i = 0; i < bytes; i++) {
        uint8_t sign = signed_zero && i % part == part - 1 ? 0x80 : 0;
        if ((element[i] & (uint8_t)~sign) != 0) {
            return false;
        }
    }
    return true;
}

/* Dense means: the offsets are 0 ... numel - 1, each once. Strides below 1 count as gaps. */
static void
check_density(const y5_tensor *tensor, const int64_t *offsets)
{
    bool dense = true;
    for (int32_t i = 0; i < tensor->ndim; i++) {
        dense = dense && (tensor->shape[i] == 1 || tensor->strides[i] > 0);
    }
    uint8_t *seen = allocate(tensor->numel + 1);
    memset(seen, 0, (size_t)tensor->numel + 1);
    for (int64_t i = 0; i < tensor->numel && dense; i++) {
        dense = offsets[i] < tensor->numel && seen[offsets[i]]++ == 0;
    }
    dense = dense || tensor->numel <= 1;
    CHECK(y5_tensor_is_dense(tensor) == dense, "dense, %d elements", (int)tensor->numel);
    CHECK(dense || !y5_tensor_is_contiguous(tensor), "contiguous");
    CHECK(dense || !y5_tensor_is_channels_last(tensor), "channels last");
}

/* Puts the elements where nothing else is, and counts their zeros. */
static void
check_count(input *from, dlpack_tensor given, const int64_t reach[2])
{
    int64_t bytes = given.dtype.bits / 8;
    int64_t size = (reach[1] - reach[0] + 1) * bytes;
    int64_t skipped = take_between(from, 0, bytes - 1); /* elements need not be aligned */
    uint8_t *memory = (uint8_t *)allocate(skipped + size) + skipped;
    uint64_t sparse = take_bits(from, 1) % 4;
    for (int64_t i = 0; i < size; i++) {
        memory[i] = mixed((uint64_t)(i / bytes)) % 4 < sparse ? 0 : (uint8_t)take_bits(from, 1);
        memory[i] |= i % bytes == bytes - 1 && sparse == 2 ? 0x80 : 0;
    }
    given.byte_offset = (uint64_t)take_bits(from, 1);
    given.data =
        (void *)((uintptr_t)memory - (uintptr_t)(reach[0] * bytes) - (uintptr_t)given.byte_offset);
    y5_tensor tensor;
    y5_error error = {0};
    CHECK(describe(&given, &tensor, &error) == Y5_OK, "%s", error.message);
    int64_t lowest = 0;
    int64_t highest = 0;
    int64_t expected = 0;
    const int64_t *offsets = all_offsets(&tensor, &lowest, &highest);
    CHECK(lowest == reach[0] && highest == reach[1], "reach");
    for (int64_t i = 0; i < tensor.numel; i++) {
        expected += is_zero(memory + (offsets[i] - lowest) * bytes, given.dtype);
    }
    uintptr_t begin = 0;
    uintptr_t end = 0;
    y5_tensor_range(&tensor, &begin, &end);
    CHECK(begin == (uintptr_t)memory && end == (uintptr_t)(memory + size), "range");
    check_density(&tensor, offsets);
    CHECK(y5_sparsity_count_tensor(take_level(from), &tensor) == expected, "%d zeros of %d",
          (int)expected, (int)tensor.numel);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input from = {data, size};
    dlpack_tensor given = take_description(&from);
    given.data = (void *)(uintptr_t)take_size(&from);
    y5_tensor tensor = {0};
    y5_error error = {0};
    int64_t numel = 0;
    int64_t reach[2] = {0, 0};
    y5_status expected = expected_status(&given, &numel, reach);
    y5_status status = describe(&given, &tensor, &error);
    CHECK(status == expected, "status %d, not %d: %s", status, expected, error.message);
    if (status == Y5_OK) {
        CHECK(tensor.numel == numel && tensor.ndim == given.ndim, "%lld elements",
              (long long)numel);
        CHECK((numel == 0) == (tensor.data == NULL), "data");
    }
    if (status == Y5_OK && numel > 0 && numel <= MOST_ELEMENTS && given.device.type != 2 &&
        (reach[1] - reach[0] + 1) * (given.dtype.bits / 8) <= MOST_BYTES) {
        check_count(&from, given, reach);
    }
    free_all();
    return 0;
}
