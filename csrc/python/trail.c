/* Keeps the trails, and guesses where objects have what a walk reads of them. */
#include "python/trail.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_ROOM ((size_t)1 << 13)
#define MOST_SPOTS ((size_t)1 << 20) /* of a model of 20,000 modules */

/* A dict's keys and values, behind its counts: CPython 3.6 and later. */
#define DICT_BYTES 48
#define DICT_KEYS 32
#define DICT_VALUES 40

/* torch's C++ tensor, and the counter of versions behind its storage. */
#define IMPL_BYTES 192
#define VERSION_AFTER_STORAGE 24
#define VERSION_BYTES 16

y5_trail *
y5_trail_begin(const y5_state *state, int32_t which, const void *first, const void *second)
{
    y5_trail *trail = &state->trails[which];
    if (trail->busy) {
        return NULL;
    }
    bool same = trail->roots[0] == first && trail->roots[1] == second;
    trail->busy = true;
    trail->roots[0] = first;
    trail->roots[1] = second;
    trail->recorded = same ? trail->recorded : 0;
    trail->read = 0;
    trail->write = 0;
    for (int32_t i = 0; i < Y5_TRAIL_AHEAD; i++) {
        y5_trail_ask(trail);
    }
    return trail;
}

void
y5_trail_end(y5_trail *trail)
{
    if (trail != NULL) {
        trail->recorded = trail->write;
        trail->busy = false;
    }
}

bool
y5_trail_grow(y5_trail *trail)
{
    size_t room = trail->room > 0 ? 2 * trail->room : FIRST_ROOM;
    uintptr_t *grown =
        room <= MOST_SPOTS ? realloc(trail->spots, room * sizeof(*trail->spots)) : NULL;
    if (grown == NULL) {
        return false; /* what is not recorded is waited for */
    }
    memset(grown + trail->room, 0, (room - trail->room) * sizeof(*grown));
    trail->spots = grown;
    trail->room = room;
    return true;
}

static uintptr_t
word(uintptr_t object, int32_t offset)
{
    uintptr_t value;
    memcpy(&value, (const char *)object + offset, sizeof(value));
    return value;
}

void
y5_trail_meet_dict(y5_trail *trail, PyObject *dict, size_t key_bytes, size_t value_bytes)
{
    if (trail == NULL) {
        return;
    }
    y5_trail_meet(trail, dict, DICT_BYTES);
    if (key_bytes > 0) {
        y5_trail_meet(trail, (const void *)word((uintptr_t)dict, DICT_KEYS), key_bytes);
    }
    if (value_bytes > 0) {
        y5_trail_meet(trail, (const void *)word((uintptr_t)dict, DICT_VALUES), value_bytes);
    }
}

void
y5_trail_meet_tensor(y5_trail *trail, const y5_torch *torch, PyObject *tensor, bool written)
{
    if (trail == NULL || torch->impl_offset == 0) {
        return;
    }
    uintptr_t impl = word((uintptr_t)tensor, torch->impl_offset);
    y5_trail_meet(trail, (const void *)impl, IMPL_BYTES);
    if (impl != 0 && torch->storage_in_impl > 0) {
        int32_t at = torch->storage_in_impl;
        y5_trail_meet(trail, (const void *)word(impl, at), Y5_LINE_BYTES);
        if (written) {
            y5_trail_meet(trail, (const void *)word(impl, at + VERSION_AFTER_STORAGE),
                          VERSION_BYTES);
        }
    }
}

void *
y5_keep(y5_trail *trail, int32_t use, size_t bytes)
{
    if (trail == NULL) {
        return malloc(bytes);
    }
    if (trail->kept_bytes[use] < bytes) {
        void *grown = realloc(trail->kept[use], bytes);
        if (grown == NULL) {
            return NULL;
        }
        trail->kept[use] = grown;
        trail->kept_bytes[use] = bytes;
    }
    return trail->kept[use];
}

void
y5_unkeep(const y5_trail *trail, void *memory)
{
    if (trail == NULL) {
        free(memory);
    }
}

/* The offset in an object, from `first` to `last`, of a word with that value, or 0. */
static int32_t
offset_of(uintptr_t object, int32_t first, int32_t last, uintptr_t value)
{
    for (int32_t at = first; at <= last; at += (int32_t)sizeof(value)) {
        if (word(object, at) == value) {
            return at;
        }
    }
    return 0;
}

bool
y5_trail_learn(PyObject *facts, y5_torch *torch)
{
    PyObject *layout = PyObject_GetAttrString(facts, "layout");
    PyObject *tensor = NULL;
    unsigned long long impl = 0;
    unsigned long long storage = 0;
    bool valid = layout != NULL &&
                 (layout == Py_None || PyArg_ParseTuple(layout, "OKK", &tensor, &impl, &storage));
    if (valid && tensor != NULL && Py_TYPE(tensor) == torch->tensor_type) {
        torch->impl_offset = offset_of((uintptr_t)tensor, 16, 32, (uintptr_t)impl);
        torch->storage_in_impl =
            torch->impl_offset > 0 ? offset_of((uintptr_t)impl, 8, 64, (uintptr_t)storage) : 0;
    }
    Py_XDECREF(layout);
    return valid;
}

bool
y5_trail_start(y5_state *state)
{
    state->trails = calloc(Y5_TRAIL_COUNT, sizeof(*state->trails));
    return state->trails != NULL;
}

void
y5_trail_stop(y5_state *state)
{
    for (int32_t i = 0; state->trails != NULL && i < Y5_TRAIL_COUNT; i++) {
        free(state->trails[i].spots);
        for (int32_t use = 0; use < Y5_KEPT_COUNT; use++) {
            free(state->trails[i].kept[use]);
        }
    }
    free(state->trails);
    state->trails = NULL;
}
