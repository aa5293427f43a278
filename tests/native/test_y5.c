/* core/y5.c against the list of all offsets of small tensors of every kind. */
#include "support.h"
#include "test_core.h"

#include <stdarg.h>
#include <string.h>

/* Every offset 0 ... numel - 1 occurs once. */
static bool
covers_a_block(const int64_t *offsets, int64_t numel)
{
    bool *seen = calloc((size_t)numel + 1, sizeof(bool));
    bool covers = true;
    for (int64_t i = 0; i < numel && covers; i++) {
        covers = offsets[i] >= 0 && offsets[i] < numel && !seen[offsets[i]];
        if (covers) {
            seen[offsets[i]] = true;
        }
    }
    free(seen);
    return covers;
}

/* Strides of the shape in a random order of dimensions, now and then with one of them changed. */
static void
give_strides(y5_tensor *tensor)
{
    int64_t step = 1;
    uint32_t used = 0;
    for (int32_t left = tensor->ndim; left > 0; left--) {
        int32_t i = 0;
        int64_t skip = random_between(0, left - 1);
        while ((used >> i & 1U) || skip-- > 0) {
            i++;
        }
        used |= 1U << i;
        tensor->strides[i] = step;
        step *= tensor->shape[i];
        if (tensor->shape[i] == 1) {
            tensor->strides[i] = random_between(-9, 9); /* means nothing */
        }
    }
    if (tensor->ndim > 0 && random_between(0, 2) == 0) {
        tensor->strides[random_between(0, tensor->ndim - 1)] = random_between(-7, 7);
    }
}

static void
check_range(y5_tensor *tensor, int64_t lowest, int64_t highest)
{
    static char memory[1];
    uintptr_t begin = 1;
    uintptr_t end = 1;
    tensor->data = memory;
    for (int dtype = 0; dtype < Y5_DTYPE_COUNT; dtype++) {
        tensor->dtype = (y5_dtype)dtype;
        y5_tensor_range(tensor, &begin, &end);
        int64_t bytes = (int64_t)y5_dtype_bytes(tensor->dtype);
        int64_t from = (int64_t)(begin - (uintptr_t)memory);
        int64_t to = (int64_t)(end - (uintptr_t)memory);
        if (tensor->numel == 0) {
            CHECK(begin == 0 && end == 0, "an empty tensor");
        } else {
            CHECK(from == lowest * bytes && to == (highest + 1) * bytes, "%lld to %lld",
                  (long long)from, (long long)to);
        }
    }
}

static void
check_random_tensors(void)
{
    int32_t dense = 0;
    int32_t same = 0;
    for (int32_t round = 0; round < (brief ? 3000 : 30000); round++) {
        y5_tensor a = random_shape(4, round % 8 == 0 ? 0 : 1, 4);
        give_strides(&a);
        y5_tensor b = a;
        if (round % 2) {
            give_strides(&b);
        }
        int64_t lowest = 0;
        int64_t highest = 0;
        int64_t *offsets = all_offsets(&a, &lowest, &highest);
        bool covers = a.numel <= 1 || covers_a_block(offsets, a.numel);
        CHECK(y5_tensor_is_dense(&a) == covers, "round %d", round);
        check_range(&a, lowest, highest);
        dense += covers;

        int64_t *others = all_offsets(&b, &lowest, &highest);
        bool equal = memcmp(offsets, others, (size_t)a.numel * sizeof(*offsets)) == 0;
        CHECK(a.numel == 0 || y5_tensor_same_order(&a, &b) == equal, "round %d", round);
        same += equal && round % 2;
        free_all();
    }
    /* Both answers were asked for often. */
    CHECK(dense > 500 && same > 100, "%d dense, %d in the same order", dense, same);
}

static void
check_other_shapes(void)
{
    y5_tensor a = {.numel = 6, .ndim = 2, .shape = {2, 3}, .strides = {3, 1}};
    y5_tensor longer = {.numel = 6, .ndim = 3, .shape = {2, 3, 1}, .strides = {3, 1, 1}};
    y5_tensor turned = {.numel = 6, .ndim = 2, .shape = {3, 2}, .strides = {3, 1}};
    CHECK(y5_tensor_same_order(&a, &a), "itself");
    CHECK(!y5_tensor_same_order(&a, &longer), "another number of dimensions");
    CHECK(!y5_tensor_same_order(&a, &turned), "another shape");
    y5_tensor many = {.numel = 1 << Y5_MAX_DIMS, .ndim = Y5_MAX_DIMS};
    for (int32_t i = 0; i < Y5_MAX_DIMS; i++) {
        many.shape[i] = 2;
        many.strides[i] = (int64_t)1 << i;
    }
    CHECK(y5_tensor_is_dense(&many), "all dimensions in reverse");
    many.strides[0] = 2;
    CHECK(!y5_tensor_is_dense(&many), "two equal strides");
}

static void
check_dtypes(void)
{
    static const size_t expected[] = {4, 8, 2, 2, 4, 8, 16, 1, 2, 4, 8, 1, 1};
    CHECK(sizeof(expected) / sizeof(expected[0]) == Y5_DTYPE_COUNT, "a dtype is missing here");
    for (int dtype = 0; dtype < Y5_DTYPE_COUNT; dtype++) {
        CHECK(y5_dtype_bytes((y5_dtype)dtype) == expected[dtype], "dtype %d", dtype);
        bool floating = dtype <= Y5_BFLOAT16 || dtype >= Y5_FLOAT8;
        CHECK(y5_dtype_is_floating((y5_dtype)dtype) == floating, "dtype %d", dtype);
    }
}

static void
check_error_texts(void)
{
    char endless[1000];
    memset(endless, 'x', sizeof(endless) - 1);
    endless[sizeof(endless) - 1] = '\0';
    y5_error error;
    memset(&error, 0x55, sizeof(error));
    CHECK(y5_fail(&error, Y5_BAD_VALUE, "key", "%d of %s", 3, "five") == Y5_BAD_VALUE, "status");
    CHECK(strcmp(error.argument, "key") == 0 && strcmp(error.message, "3 of five") == 0, "texts");
    CHECK(y5_fail(&error, Y5_UNSUPPORTED, endless, "%s", endless) == Y5_UNSUPPORTED, "status");
    CHECK(strlen(error.argument) == sizeof(error.argument) - 1, "argument is cut to fit");
    CHECK(strlen(error.message) == sizeof(error.message) - 1, "message is cut to fit");
}

void
test_y5(void)
{
    check_random_tensors();
    check_other_shapes();
    check_dtypes();
    check_error_texts();
}
