/* The tensors of one call, and the only place where their memory is used.
 *
 * A call first collects its tensors as references, while Python code may run. Then y5_call_run()
 * takes their addresses, has a plan check and use them, and forgets them again. In between nothing
 * is released and nothing runs Python code, which would be free to replace the memory: the steps of
 * a plan are plain C that knows no Python (csrc/plan), and what torch is called for there are C
 * functions of its own. */
#ifndef Y5_CALL_H
#define Y5_CALL_H

#include "plan/plan.h"
#include "python/state.h"
#include "python/tensor.h"
#include "python/trail.h"

/* What a tensor must be, or what happens to it. */
enum {
    Y5_SIGNED = 1,    /* its values are those in memory: no negative bit */
    Y5_WRITTEN = 2,   /* no other tensor of the call may share its memory, unless the plan says */
    Y5_ANNOUNCED = 4, /* torch's autograd is told that it is written: its version is raised */
    Y5_PAIR_OR_NONE = 8, /* left out with the tensor after it where it is not floating */
    Y5_ANY_BYTES = 16,   /* of all types, also those that torch computes with only in part */
};

/* One tensor. */
typedef struct {
    PyObject *object;  /* owned; NULL once it was released */
    y5_loan loan;      /* what is owed for its address */
    PyObject *storage; /* owned: holds the memory while the GIL is released */
    uint64_t likeness; /* of its description at the first look; every other look must agree */
    uint32_t group;    /* a bit of y5_plan.groups */
    uint8_t needs;     /* of the flags above */
    uint8_t questions; /* to torch, open */
    uint8_t answers;   /* questions that were answered well */
    bool left_out;
} y5_held;

/* Zero-initialise; release with y5_call_free on every path. */
typedef struct {
    y5_trail *trail; /* of the walk that collected the tensors; NULL: none */
    y5_held *held;
    int64_t count;
    int64_t capacity;
    int64_t refused; /* the tensor that a failure concerns; -1 where it is no single one */
    y5_range *ranges;
    bool decided; /* where the tensors live: the first one says it */
    y5_device device;
    int32_t device_index; /* of the CUDA device */
    bool collecting;      /* the garbage collector is off for as long, and was on */
    bool announced;
} y5_call;

/* Makes room for `count` more; false without memory. */
bool y5_call_reserve(y5_call *call, int64_t count);

/* Adds a tensor. Y5_UNSUPPORTED for what is no plain one. */
y5_status y5_call_add(const y5_state *state, y5_call *call, PyObject *object, uint32_t group,
                      uint8_t needs, y5_error *error);

/* Looks at the tensors in the plan's groups, checks them, and does what the plan does, without the
 * GIL where it moves much. May be called again, for another plan: descriptions must agree then.
 * Y5_UNSUPPORTED, with nothing changed, where torch must do it. */
y5_status y5_call_run(const y5_state *state, y5_call *call, const y5_plan *plan, y5_error *error);

/* Lets the plan take and run on one object of any producer that lends memory of the CPU. What torch
 * cannot be at fault for is a TypeError, ValueError or BufferError; an exception of the producer
 * passes through. Runs Python code before and after, but not in between. */
y5_status y5_call_run_foreign(const y5_state *state, PyObject *object, const y5_plan *plan,
                              y5_error *error);

/* The number of the CUDA device on which the call runs; nothing, and Y5_OK, on the CPU. */
y5_status y5_call_device(const y5_call *call, PyObject **number);

/* Releases a tensor that no later plan wants. Runs Python code, where nobody else holds it. */
void y5_call_release(y5_call *call, int64_t at);

/* Adds a new tensor of so many bytes on the call's CUDA device, to be written: from torch's
 * allocator and for its current stream, so that it may be released once what uses it was launched.
 * Runs Python code. */
y5_status y5_call_allocate(const y5_state *state, y5_call *call, int64_t bytes, uint32_t group,
                           y5_error *error);

void y5_call_free(y5_call *call);

#endif
