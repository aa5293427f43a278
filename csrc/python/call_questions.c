/* Asks torch, and Python code, about a call's tensors. */
#include "python/call_questions.h"

#include "python/cuda_loader.h"

/* What stands in the way where the answer is 1; -1 comes with an exception. */
static const struct {
    uint8_t question;
    int (*ask)(const y5_state *state, PyObject *object);
    const char *refusal;
} asked[] = {
    {ASK_STORAGE, y5_storage_is_gone, Y5_STORAGE_IS_GONE},
    {ASK_BYTES, y5_has_fewer_bits, "integers of less than 8 bits"},
    {ASK_SIGN, y5_is_negated, "a negative bit is set"},
};

/* Answers one tensor's questions. Runs Python code. */
static y5_status
answer(const y5_state *state, y5_call *call, y5_held *held, y5_error *error)
{
    y5_status status = Y5_OK;
    if (held->questions & ASK_DEVICE) {
        const y5_cuda_api *api = NULL;
        status = y5_cuda_find(state, call->device_index, &api, error);
        if (status == Y5_OK && !y5_cuda_is_known(state, call->device_index)) {
            status = y5_refuse(error, "moved, or the library replaced, meanwhile");
        }
        if (status != Y5_OK) {
            call->refused = -1; /* all of them */
        }
        held->questions &= (uint8_t)~ASK_DEVICE;
    }
    for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]) && status == Y5_OK; i++) {
        if (held->questions & asked[i].question) {
            int stands = asked[i].ask(state, held->object);
            status = stands < 0 ? Y5_PYTHON_RAISED
                                : y5_refuse(error, stands > 0 ? asked[i].refusal : NULL);
        }
    }
    if (status == Y5_OK && (held->questions & ASK_VERSION)) {
        status = y5_raise_version(state, held->object, error);
        status = status == Y5_PYTHON_RAISED ? y5_refused(error) : status;
    }
    held->answers |= held->questions;
    held->questions = 0;
    return status;
}

y5_status
y5_answer_all(const y5_state *state, y5_call *call, y5_error *error)
{
    bool announces = false;
    y5_status status = Y5_OK;
    for (int64_t i = 0; i < call->count && status == Y5_OK; i++) {
        if (call->held[i].questions != 0) {
            announces = announces || (call->held[i].questions & ASK_VERSION);
            call->refused = i;
            status = answer(state, call, &call->held[i], error);
        }
    }
    call->announced = call->announced || announces;
    return status;
}

y5_status
y5_leave_out_integers(const y5_state *state, y5_call *call, bool *some)
{
    for (int64_t i = 0; i + 1 < call->count; i++) {
        y5_held *held = &call->held[i];
        if (!(held->needs & Y5_PAIR_OR_NONE) || held->left_out || held->answers & ASK_FLOATING) {
            continue;
        }
        int floating = y5_is_floating(state, held->object);
        if (floating < 0) {
            return Y5_PYTHON_RAISED;
        }
        held->answers |= ASK_FLOATING;
        if (!floating) {
            held->left_out = true;
            call->held[i + 1].left_out = true;
            *some = true;
        }
    }
    return Y5_OK;
}

y5_status
y5_ask_ahead(const y5_state *state, y5_call *call, const y5_plan *plan, y5_error *error)
{
    y5_status status = Y5_OK;
    for (int64_t i = 0; i < call->count && status == Y5_OK; i++) {
        y5_held *held = &call->held[i];
        held->answers &= (uint8_t)~ASK_STORAGE;
        if (y5_is_wanted(held, plan) && (held->needs & Y5_SIGNED) && !(held->answers & ASK_SIGN) &&
            Py_TYPE(held->object) != state->torch.parameter_type) {
            call->refused = i;
            held->questions = ASK_SIGN;
            status = answer(state, call, held, error);
        }
    }
    return status;
}
