/* Working on a stretch of memory in several places in turn: the processor's prefetcher follows each
 * of them, so that more of the memory is on its way at once. For what lies in no cache, as tensors
 * do between training steps, that saves a seventh to a third of the time on an AMD Zen 3. */
#ifndef Y5_STREAMS_H
#define Y5_STREAMS_H

#include <stdint.h>

/* Bytes worked on in one place before it is the next one's turn. */
#define Y5_STREAM_TURN 256

/* Bytes of each of `places` in a stretch of so many: whole turns, 0 where it is too short. What is
 * left is for another round. Long places are never whole pages apart: such addresses would drive
 * each other out of an L1 cache. */
static inline int64_t
y5_stream_bytes(int64_t bytes, int64_t places)
{
    const int64_t page = 4096;
    const int64_t shift = 1024;
    int64_t even = bytes / places / Y5_STREAM_TURN * Y5_STREAM_TURN;
    return even < page + shift ? even : (even - shift) / page * page + shift;
}

#endif
