/* The kernels, emulated, while everything they read changes: from launch to launch, from block to
 * block, and between two barriers of a block. The result may be anything; the calls succeed, and
 * AddressSanitizer watches the memory around the tensors. */
#include "test_emu.h"

#include <string.h>

#define SOME 4
#define MOST_ARRAYS 32

/* What changes. */
typedef struct {
    array arrays[MOST_ARRAYS];
    int32_t count;
} readings;

static array
add(readings *changing, int64_t numel, y5_dtype dtype)
{
    CHECK(changing->count < MOST_ARRAYS, "%d arrays", changing->count);
    changing->arrays[changing->count] = array_of(numel, dtype);
    return changing->arrays[changing->count++];
}

/* Makes all elements of one array equal, different, zero, NaN or anything. */
static void
change(void *context)
{
    readings *changing = context;
    const array *chosen = &changing->arrays[random_between(0, changing->count - 1)];
    int64_t kind = random_between(0, 5);
    for (int64_t i = 0; i + 2 <= chosen->bytes; i += 2) {
        const uint16_t words[] = {0x3c3c, 0x3c3c, 0, 0xffff, (uint16_t)(0x4000 + i % 0x3b00), 0};
        uint16_t word = kind < 5 ? words[kind] : (uint16_t)random_bits();
        memcpy(chosen->data + i, &word, sizeof(word));
    }
}

static void
begin(readings *changing)
{
    shake_machine();
    y5_emulated()->meanwhile = change;
    y5_emulated()->context = changing;
}

static void
end(void)
{
    y5_emulated()->meanwhile = NULL;
    free_all();
}

static void
change_while_pruning(y5_dtype dtype)
{
    readings changing = {.count = 0};
    y5_prune_layer layers[SOME];
    for (int64_t i = 0; i < SOME; i++) {
        int64_t numel = random_numel();
        int64_t some[] = {1, numel - 1, numel - numel / 50, random_between(0, numel)};
        char *pruned = array_of(numel, dtype).data;
        layers[i] = (y5_prune_layer){
            add(&changing, numel, dtype).data, pruned, numel, some[i], dtype, false};
    }
    int64_t bytes = api->prune_workspace_bytes(layers, SOME);
    begin(&changing);
    CALL(prune, &here, layers, SOME, workspace_of(bytes), bytes);
    end();
}

static void
change_while_averaging(y5_dtype dtype, y5_dtype from)
{
    readings changing = {.count = 0};
    y5_ema_pair pairs[SOME];
    for (int64_t i = 0; i < SOME; i++) {
        int64_t numel = random_numel();
        pairs[i] = (y5_ema_pair){add(&changing, numel, dtype).data,
                                 add(&changing, numel, from).data, numel, dtype, from};
    }
    begin(&changing);
    CALL(ema_update, &here, pairs, SOME, 0.9);
    end();
}

static void
change_while_counting(y5_dtype dtype)
{
    readings changing = {.count = 0};
    y5_elements items[SOME];
    int64_t zeros[SOME];
    for (int64_t i = 0; i < SOME; i++) {
        int64_t numel = random_numel();
        items[i] = (y5_elements){add(&changing, numel, dtype).data, numel, dtype};
    }
    begin(&changing);
    CALL(sparsity_count, &here, items, SOME, zeros, SOME);
    end();
    for (int64_t i = 0; i < SOME; i++) {
        CHECK(0 <= zeros[i] && zeros[i] <= items[i].numel, "%d zeros", (int)zeros[i]);
    }
}

static void
change_while_fusing(y5_dtype dtype)
{
    readings changing = {.count = 0};
    int64_t channels = random_between(1, 70);
    int64_t row = random_between(1, 200);
    array weight = array_of(channels * row, Y5_FLOAT32);
    array bias = array_of(channels, Y5_FLOAT32);
    const char *inputs[6];
    for (int32_t i = 0; i < 6; i++) {
        inputs[i] = add(&changing, i == 0 ? channels * row : channels, dtype).data;
    }
    y5_fuse_pair pair = {inputs[0], inputs[1],   inputs[2], inputs[3], inputs[4],
                         inputs[5], weight.data, bias.data, 1e-3,      channels,
                         row,       dtype,       Y5_FLOAT32};
    int32_t doubtful = 0;
    begin(&changing);
    CALL(fuse, &here, &pair, 1, &doubtful);
    end();
}

static void
change_while_resizing(void)
{
    readings changing = {.count = 0};
    array output = array_of(3 * 32 * 64, Y5_FLOAT32);
    y5_scale_img job = {
        .image = add(&changing, 3 * 31 * 47, Y5_FLOAT32).data,
        .output = output.data,
        .planes = 3,
        .interleaved = 1,
        .channels = 3,
        .rows = {31, 25, 32},
        .columns = {47, 60, 64},
        .dtype = Y5_FLOAT32,
        .variant = (int32_t)random_between(0, 7),
    };
    begin(&changing);
    CALL(scale_img, &here, &job);
    end();
}

void
test_changing(void)
{
    for (int32_t trial = 0; trial < 12; trial++) {
        y5_dtype dtype = (y5_dtype)(trial % Y5_FLOATING_COUNT);
        change_while_pruning(dtype);
        change_while_averaging(dtype, (y5_dtype)random_between(0, Y5_FLOATING_COUNT - 1));
        change_while_counting(dtype);
        change_while_fusing(dtype);
        change_while_resizing();
    }
}
