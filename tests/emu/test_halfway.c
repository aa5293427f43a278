/* What a call of several launches leaves behind where one of them fails: nothing changed that is
 * the caller's, or a status and a sentence that say how much was. */
#include "test_emu.h"

#include <stdio.h>
#include <string.h>

enum { MOST = 3000, TABLE = 1165 }; /* pairs; and those of one launch */

static float averages[MOST][2];
static float sources[MOST][2];
static y5_ema_pair pairs[MOST];

static void
set_up(int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        for (int j = 0; j < 2; j++) {
            averages[i][j] = (float)(i + 1);
            sources[i][j] = (float)-i;
        }
        pairs[i] = (y5_ema_pair){averages[i], sources[i], 2, Y5_FLOAT32, Y5_FLOAT32};
    }
}

/* The first `updated` pairs hold averages, the others what they held before. */
static void
check_updated(int64_t count, int64_t updated)
{
    for (int64_t i = 0; i < count; i++) {
        float expected = i < updated ? 0.5F * (float)(i + 1) + 0.5F * (float)-i : (float)(i + 1);
        CHECK(averages[i][0] == expected && averages[i][1] == expected, "pair %d of %d: %g", (int)i,
              (int)count, (double)averages[i][0]);
    }
}

/* Lets a launch of the EMA fail behind some that succeed. */
static void
check_ema(int64_t count, int32_t spared, int32_t code)
{
    y5_emulated_machine *machine = y5_emulated();
    y5_cuda_error error;
    char words[64];
    set_up(count);
    machine->failing = "cuLaunchKernel";
    machine->failure = code;
    machine->spared = spared;
    y5_cuda_status status = api->ema_update(&here, pairs, count, 0.5, &error);
    machine->failing = "";
    int64_t updated = (int64_t)spared * TABLE;
    if (updated >= count) {
        expect_ok(status, &error, "no launch was left to fail");
        check_updated(count, count);
        return;
    }
    check_updated(count, updated);
    CHECK((status == Y5_CUDA_FAILED) == (spared > 0 || code == 700) && status != Y5_CUDA_OK &&
              error.code == code,
          "%d launches, then %d: status %d", (int)spared, (int)code, (int)status);
    (void)snprintf(words, sizeof(words), "%d of %d tensors were updated", (int)updated, (int)count);
    CHECK((strstr(error.message, words) != NULL) == (spared > 0), "%s", error.message);
}

/* Operations whose results are memory of their own say what the driver says, whichever launch it
 * was: torch may begin again. */
static void
check_others(int32_t spared)
{
    static _Alignas(256) char workspace[1 << 16];
    int64_t zeros = 0;
    static y5_elements items[MOST];
    y5_emulated_machine *machine = y5_emulated();
    y5_prune_layer layer = {averages, sources, 20, 7, Y5_FLOAT32, false};
    y5_cuda_error error;
    set_up(MOST);
    for (int64_t i = 0; i < MOST; i++) {
        items[i] = (y5_elements){averages[i], 2, Y5_FLOAT32};
    }
    machine->failing = "cuLaunchKernel";
    machine->failure = 2;
    machine->spared = spared;
    y5_cuda_status status = api->sparsity_count(&here, items, MOST, &zeros, 1, &error);
    CHECK(status == Y5_CUDA_NOT_NOW, "sparsity: status %d", (int)status);
    machine->spared = spared;
    status = api->prune(&here, &layer, 1, workspace, sizeof(workspace), &error);
    CHECK(status == Y5_CUDA_NOT_NOW, "prune: status %d", (int)status);
    machine->failing = "cuMemsetD8Async";
    machine->spared = 0;
    status = api->sparsity_count(&here, items, MOST, &zeros, 1, &error);
    CHECK(status == Y5_CUDA_NOT_NOW, "clearing: status %d", (int)status);
    machine->failing = "";
    check_updated(MOST, 0);
    CALL(sparsity_count, &here, items, MOST, &zeros, 1); /* afterwards */
}

void
test_halfway(void)
{
    static const int32_t codes[] = {2, 209, 400, 700, 901, 999};
    for (int round = 0; round < 8; round++) {
        shake_machine();
        check_ema(random_between(1, MOST), (int32_t)random_between(0, 3),
                  codes[random_between(0, 5)]);
    }
    check_ema(TABLE, 0, 2);
    check_ema(TABLE + 1, 1, 2);
    check_ema(MOST, 2, 35);
    for (int32_t spared = 0; spared < 3; spared++) {
        check_others(spared);
    }
}
