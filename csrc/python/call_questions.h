/* The questions about a call's tensors that only Python code or torch's operations answer, which
 * are asked while no address is in use. For call.c alone. */
#ifndef Y5_CALL_QUESTIONS_H
#define Y5_CALL_QUESTIONS_H

#include "python/call.h"

/* Questions that only Python code answers. They are noted while tensors are looked at, and asked
 * when no address is in use any more; then the tensors are looked at once more. */
enum {
    ASK_STORAGE = 1,  /* was its storage taken away? */
    ASK_BYTES = 2,    /* is it of int8, uint8 or bool, or of a smaller type that looks like them? */
    ASK_FLOATING = 4, /* must it be averaged, though torch does not describe it? */
    ASK_DEVICE = 8,   /* does the CUDA library run where it lives? */
    ASK_VERSION = 16, /* raise its version, in a torch that has no C function for it */
    ASK_SIGN = 32, /* are its values the negatives of those in memory? torch lets go of the GIL */
};

static inline bool
y5_is_wanted(const y5_held *held, const y5_plan *plan)
{
    return (held->group & plan->groups) != 0 && !held->left_out;
}

/* Asks what is known to be a question before any tensor was looked at: the sign of all that are no
 * parameters. And what an earlier run was told of a storage may be so no more. */
y5_status y5_ask_ahead(const y5_state *state, y5_call *call, const y5_plan *plan, y5_error *error);

/* Answers the open questions of all tensors. Y5_UNSUPPORTED where an answer says so. */
y5_status y5_answer_all(const y5_state *state, y5_call *call, y5_error *error);

/* Once torch refused to describe a tensor: leaves out all pairs that are not floating. *some: there
 * were any, so that another look may go better. */
y5_status y5_leave_out_integers(const y5_state *state, y5_call *call, bool *some);

#endif
