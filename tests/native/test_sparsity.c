/* core/sparsity.c at one level against a look at every element as the number it is: every dtype,
 * every byte pattern, every tail, strides, and more zeros than a narrow lane can count. */
#include "core/ops.h"
#include "support.h"
#include "test_core.h"

#include <stdatomic.h>
#include <string.h>

static bool
is_zero(const char *element, y5_dtype dtype)
{
    static const char nothing[16] = {0};
    double wide[2] = {0};
    float narrow[2] = {0};
    switch (dtype) {
    case Y5_FLOAT64:
    case Y5_COMPLEX128:
        memcpy(wide, element, y5_dtype_bytes(dtype));
        return wide[0] == 0 && wide[1] == 0;
    case Y5_FLOAT32:
    case Y5_COMPLEX64:
        memcpy(narrow, element, y5_dtype_bytes(dtype));
        return narrow[0] == 0 && narrow[1] == 0;
    case Y5_FLOAT16:
    case Y5_BFLOAT16:
        return get_element(element, 0, dtype) == 0;
    case Y5_COMPLEX32:
        return get_element(element, 0, Y5_FLOAT16) == 0 && get_element(element, 1, Y5_FLOAT16) == 0;
    case Y5_FLOAT8:
        return *element == 0 || (unsigned char)*element == 0x80;
    default: /* integers, and FLOAT8_FNUZ, whose 0x80 is NaN */
        return memcmp(element, nothing, y5_dtype_bytes(dtype)) == 0;
    }
}

static int64_t
count_one_by_one(const char *data, int64_t numel, y5_dtype dtype)
{
    int64_t zeros = 0;
    for (int64_t i = 0; i < numel; i++) {
        zeros += is_zero(data + i * (int64_t)y5_dtype_bytes(dtype), dtype);
    }
    return zeros;
}

static int64_t
count_dense(y5_level level, void *data, int64_t numel, y5_dtype dtype)
{
    y5_tensor tensor = {data, numel, dtype, Y5_CPU, 0, 1, {numel}, {1}};
    return y5_sparsity_count_tensor(level, &tensor);
}

/* Bytes that are often zero, often a sign alone, now and then anything. */
static void
fill_sparse(char *data, int64_t bytes)
{
    int64_t zeros = random_between(1, 40);
    for (int64_t i = 0; i < bytes; i++) {
        int64_t kind = random_between(0, zeros);
        data[i] = (char)(kind == 0 ? random_bits() : kind == 1 ? 0x80U : 0U);
    }
}

static void
check_sizes(y5_level level, y5_dtype dtype)
{
    int64_t width = (int64_t)y5_dtype_bytes(dtype);
    int64_t most = 600 / width + 70;
    for (int64_t numel = 0; numel <= most; numel++) {
        int64_t offset = random_between(0, 3) * width;
        char *block = allocate(offset + numel * width);
        fill_sparse(block, offset + numel * width);
        int64_t expected = count_one_by_one(block + offset, numel, dtype);
        int64_t zeros = count_dense(level, block + offset, numel, dtype);
        CHECK(zeros == expected, "%d of dtype %d: %d, not %d", (int)numel, dtype, (int)zeros,
              (int)expected);
        free_all();
    }
}

/* Every byte value at every place of an element, with the element's other bytes zero, and for the
 * 16-bit types every pattern: at the head of a vector and in the tail behind it. */
static void
check_patterns(y5_level level, y5_dtype dtype)
{
    int64_t width = (int64_t)y5_dtype_bytes(dtype);
    int64_t count = width == 2 ? 65536 + 3 : 256 * width + 3;
    char *data = calloc((size_t)count, (size_t)width);
    for (int64_t i = 0; i < count - 3; i++) {
        if (width == 2) {
            data[2 * i] = (char)(i & 0xff);
            data[2 * i + 1] = (char)(i >> 8);
        } else {
            data[i * width + i / 256] = (char)(i % 256);
        }
    }
    for (int64_t i = 0; i < count; i += width == 2 ? 4096 : 64) {
        int64_t numel = count - i < 1000 ? count - i : 1000;
        int64_t expected = count_one_by_one(data + i * width, numel, dtype);
        int64_t zeros = count_dense(level, data + i * width, numel, dtype);
        CHECK(zeros == expected, "dtype %d from %d: %d, not %d", dtype, (int)i, (int)zeros,
              (int)expected);
    }
    int64_t whole = count_one_by_one(data, count, dtype);
    CHECK(count_dense(level, data, count, dtype) == whole, "dtype %d, all patterns", dtype);
    for (int64_t i = 0; i < count && i < 600; i++) { /* each alone, in the tail */
        int64_t one = is_zero(data + i * width, dtype);
        CHECK(count_dense(level, data + i * width, 1, dtype) == one, "dtype %d, pattern %d", dtype,
              (int)i);
    }
    free(data);
}

/* Vectors of 64 bytes, four of them per round, each lane one more per round: after 255 and 65535
 * rounds a lane of 8 and 16 bits must have been emptied. */
static void
check_full_lanes(y5_level level)
{
    int64_t full_8 = (int64_t)255 * 4 * 64;
    int64_t full_16 = (int64_t)65535 * 4 * 32;
    char *data = calloc((size_t)full_16 + 200, 2);
    for (int64_t extra = -65; extra <= 300; extra += 5) {
        int64_t zeros = count_dense(level, data, full_8 + extra, Y5_INT8);
        CHECK(zeros == full_8 + extra, "%d, not %d", (int)zeros, (int)(full_8 + extra));
    }
    CHECK(count_dense(level, data, 4 * full_8, Y5_FLOAT8) == 4 * full_8, "four times full");
    for (int64_t extra = brief ? 199 : -33; extra < 200; extra += 29) {
        int64_t zeros = count_dense(level, data, full_16 + extra, Y5_FLOAT16);
        CHECK(zeros == full_16 + extra, "%d, not %d", (int)zeros, (int)(full_16 + extra));
    }
    free(data);
}

static void
check_strides(y5_level level)
{
    for (int32_t round = 0; round < (brief ? 300 : 3000); round++) {
        y5_tensor tensor = random_shape(4, round % 9 == 0 ? 0 : 1, 6);
        tensor.dtype = (y5_dtype)random_between(0, Y5_DTYPE_COUNT - 1);
        for (int32_t i = 0; i < tensor.ndim; i++) {
            tensor.strides[i] = random_between(-7, 30);
        }
        if (tensor.ndim > 0 && round % 2) {
            tensor.strides[tensor.ndim - 1] = 1; /* whole rows at once */
        }
        int64_t width = (int64_t)y5_dtype_bytes(tensor.dtype);
        int64_t low = 0;
        int64_t high = 0;
        int64_t *offsets = all_offsets(&tensor, &low, &high);
        char *block = allocate((high - low + 1) * width);
        fill_sparse(block, (high - low + 1) * width);
        tensor.data = block - low * width;
        int64_t expected = 0;
        for (int64_t i = 0; i < tensor.numel; i++) {
            expected += is_zero(block + (offsets[i] - low) * width, tensor.dtype);
        }
        int64_t zeros = y5_sparsity_count_tensor(level, &tensor);
        CHECK(zeros == expected, "round %d: %d, not %d", round, (int)zeros, (int)expected);
        free_all();
    }
}

/* Many tensors of all types in one call, more than one task long, some of them empty. */
static void
check_items(y5_level level)
{
    enum { ITEMS = 40 };
    y5_elements items[ITEMS];
    _Atomic int64_t zeros[ITEMS];
    char *blocks[ITEMS];
    for (int32_t threads = 1; threads <= 4; threads++) {
        for (int64_t i = 0; i < ITEMS; i++) {
            y5_dtype dtype = (y5_dtype)(i % Y5_DTYPE_COUNT);
            int64_t most = i % 10 == 9 ? (brief ? 70000 : 200000) : 3000;
            int64_t numel = i % 7 == 3 ? 0 : random_between(1, most);
            int64_t bytes = numel * (int64_t)y5_dtype_bytes(dtype);
            blocks[i] = allocate(bytes);
            fill_sparse(blocks[i], bytes);
            items[i] = (y5_elements){blocks[i], numel, dtype};
            zeros[i] = 5; /* results are added to */
        }
        pool_set_threads(threads);
        y5_run run = {level, {pool_run, threads}};
        y5_sparsity_count(&run, items, ITEMS, zeros);
        for (int64_t i = 0; i < ITEMS; i++) {
            int64_t expected = 5 + count_one_by_one(blocks[i], items[i].numel, items[i].dtype);
            CHECK(zeros[i] == expected, "item %d: %d, not %d", (int)i, (int)zeros[i],
                  (int)expected);
        }
        free_all();
    }
}

void
test_sparsity(y5_level level)
{
    for (int dtype = 0; dtype < Y5_DTYPE_COUNT; dtype++) {
        check_sizes(level, (y5_dtype)dtype);
        check_patterns(level, (y5_dtype)dtype);
    }
    check_full_lanes(level);
    check_strides(level);
    check_items(level);
}
