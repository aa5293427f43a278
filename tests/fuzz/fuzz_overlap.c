/* y5_find_overlap against every pair of ranges, compared one by one. */
#include "core/overlap.h"
#include "fuzz.h"

#define MOST_RANGES 48

static bool
meet(const y5_range *a, const y5_range *b)
{
    return a->begin < a->end && b->begin < b->end && a->begin < b->end && b->begin < a->end;
}

static y5_overlap
expected_overlap(const y5_range *ranges, int64_t count)
{
    y5_overlap found = Y5_APART;
    for (int64_t i = 0; i < count; i++) {
        for (int64_t j = 0; j < i; j++) {
            if (meet(&ranges[i], &ranges[j]) && ranges[i].written != ranges[j].written) {
                return Y5_READ_WRITTEN;
            }
            if (meet(&ranges[i], &ranges[j]) && ranges[i].written) {
                found = Y5_WRITTEN_TWICE;
            }
        }
    }
    return found;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input from = {data, size};
    y5_range ranges[MOST_RANGES];
    y5_range scratch[MOST_RANGES];
    int64_t count = take_between(&from, 0, MOST_RANGES);
    uintptr_t base = (uintptr_t)take_size(&from);
    for (int64_t i = 0; i < count; i++) {
        uintptr_t begin = base + (uintptr_t)take_size(&from);
        uintptr_t bytes = (uintptr_t)take_between(&from, 0, 255) / 3;
        ranges[i].begin = begin > UINTPTR_MAX - bytes ? UINTPTR_MAX - bytes : begin;
        ranges[i].end = ranges[i].begin + bytes;
        ranges[i].written = bytes % 2 != 0;
    }
    y5_overlap expected = expected_overlap(ranges, count);
    y5_overlap found = y5_find_overlap(ranges, scratch, count);
    CHECK(found == expected, "%d, not %d, of %d ranges", found, expected, (int)count);
    return 0;
}
