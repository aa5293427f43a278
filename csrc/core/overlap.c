/* Radix sort by address, then one sweep. Bytes in which all addresses agree are skipped, so a few
 * passes suffice. Knows nothing of tensors. */
#include "core/overlap.h"

#include <stddef.h>

static void
sort_by_byte(const y5_range *from, y5_range *to, int64_t count, uint32_t shift)
{
    int64_t places[256] = {0};
    for (int64_t i = 0; i < count; i++) {
        places[(from[i].begin >> shift) & 0xffU]++;
    }
    int64_t place = 0;
    for (int32_t digit = 0; digit < 256; digit++) {
        int64_t here = places[digit];
        places[digit] = place;
        place += here;
    }
    for (int64_t i = 0; i < count; i++) {
        to[places[(from[i].begin >> shift) & 0xffU]++] = from[i];
    }
}

static const y5_range *
sorted(y5_range *ranges, y5_range *scratch, int64_t count)
{
    uintptr_t differing = 0;
    for (int64_t i = 1; i < count; i++) {
        differing |= ranges[i].begin ^ ranges[0].begin;
    }
    y5_range *from = ranges;
    y5_range *to = scratch;
    for (uint32_t shift = 0; shift < 8 * sizeof(uintptr_t); shift += 8) {
        if ((differing >> shift) & 0xffU) {
            sort_by_byte(from, to, count, shift);
            y5_range *swap = from;
            from = to;
            to = swap;
        }
    }
    return from;
}

y5_overlap
y5_find_overlap(y5_range *ranges, y5_range *scratch, int64_t count)
{
    const y5_range *ordered = sorted(ranges, scratch, count);
    uintptr_t read_until = 0;
    uintptr_t written_until = 0;
    y5_overlap found = Y5_APART;
    for (int64_t i = 0; i < count; i++) {
        const y5_range *range = &ordered[i];
        if (range->begin == range->end) {
            continue;
        }
        if (range->begin < (range->written ? read_until : written_until)) {
            return Y5_READ_WRITTEN;
        }
        if (range->written) {
            found = range->begin < written_until ? Y5_WRITTEN_TWICE : found;
            written_until = range->end > written_until ? range->end : written_until;
        } else {
            read_until = range->end > read_until ? range->end : read_until;
        }
    }
    return found;
}
