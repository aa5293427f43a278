/* The trail of the last walk over some modules: where it found what it read, in that order.
 *
 * Between two training steps the objects of a model leave the caches, and a walk waits for them one
 * after the other. So it asks, at every step, for what the last walk over the same modules met some
 * steps later. Addresses are hints: none is ever read, and nothing is concluded from one. A wrong
 * guess of how CPython or torch lays out an object costs time and nothing else, since words are
 * read inside live objects only.
 *
 * Kept with it is the memory that such a call works in: asked for anything large after a training
 * step, malloc tidies up first. */
#ifndef Y5_TRAIL_H
#define Y5_TRAIL_H

#include "python/state.h"

/* The walks that have a trail, one of each kind. */
enum { Y5_TRAIL_EMA, Y5_TRAIL_PARAMETERS, Y5_TRAIL_COUNT };

/* What memory is kept for. */
enum { Y5_KEPT_WALK, Y5_KEPT_HELD, Y5_KEPT_RANGES, Y5_KEPT_PLAN, Y5_KEPT_COUNT };

typedef struct y5_trail {
    const void *roots[2];
    uintptr_t *spots; /* the address of a cache line, and how many follow in the lower bits; a 0
                         ends each step */
    size_t room;
    size_t recorded;
    size_t read;  /* what comes next of the last walk */
    size_t write; /* where the present walk puts its own, in its place */
    bool busy;    /* a call that Python code makes in the middle of another has no trail */
    void *kept[Y5_KEPT_COUNT];
    size_t kept_bytes[Y5_KEPT_COUNT];
} y5_trail;

#define Y5_LINE_BYTES 64
#define Y5_TRAIL_AHEAD 6 /* steps: a step takes a fraction of a microsecond, as a miss does */

/* The trail for a walk over these modules, with its first steps asked for; NULL while it is in use.
 * The functions below take NULL for none. */
y5_trail *y5_trail_begin(const y5_state *state, int32_t which, const void *first,
                         const void *second);
void y5_trail_end(y5_trail *trail);

/* Asks for the next recorded step. */
static inline void
y5_trail_ask(y5_trail *trail)
{
    uintptr_t spot = 0;
    while (trail->read < trail->recorded && (spot = trail->spots[trail->read++]) != 0) {
        for (uintptr_t line = spot & ~(uintptr_t)63; spot & 63; spot--, line += Y5_LINE_BYTES) {
            __builtin_prefetch((const void *)line);
        }
    }
}

bool y5_trail_grow(y5_trail *trail);

static inline void
y5_trail_put(y5_trail *trail, uintptr_t spot)
{
    if (trail->write < trail->room || y5_trail_grow(trail)) {
        uintptr_t *place = &trail->spots[trail->write++];
        if (*place != spot) { /* as a rule it is there already, and the line stays clean */
            *place = spot;
        }
    }
}

/* The walk comes to the next module, or to the next tensors. */
static inline void
y5_trail_step(y5_trail *trail)
{
    if (trail != NULL) {
        y5_trail_put(trail, 0);
        y5_trail_ask(trail);
    }
}

/* It has read so many bytes, up to 63 lines, in a live object. */
static inline void
y5_trail_meet(y5_trail *trail, const void *address, size_t bytes)
{
    uintptr_t begin = (uintptr_t)address & ~(uintptr_t)63;
    if (trail != NULL && address != NULL) {
        uintptr_t lines = ((uintptr_t)address + bytes - 1 - begin) / Y5_LINE_BYTES + 1;
        y5_trail_put(trail, begin | (lines < 63 ? lines : 63));
    }
}

/* A dict with its keys, of which so many bytes were read, and with its values where they lie apart
 * from them. */
void y5_trail_meet_dict(y5_trail *trail, PyObject *dict, size_t key_bytes, size_t value_bytes);

/* A tensor of which the description was taken; `written`: and its version raised. */
void y5_trail_meet_tensor(y5_trail *trail, const y5_torch *torch, PyObject *tensor, bool written);

/* Memory for one use at a time, with what was in it before; NULL where there is none. Without a
 * trail it is new, and y5_unkeep frees it. */
void *y5_keep(y5_trail *trail, int32_t use, size_t bytes);
void y5_unkeep(const y5_trail *trail, void *memory);

/* Learns of facts.layout, (a tensor, the addresses of its C++ tensor and storage) or None, where
 * torch keeps them. False with an exception set. */
bool y5_trail_learn(PyObject *facts, y5_torch *torch);

bool y5_trail_start(y5_state *state);
void y5_trail_stop(y5_state *state);

#endif
