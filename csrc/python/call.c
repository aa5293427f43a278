/* Looks at tensors and lets a plan use what it saw. */
#include "python/call.h"

#include "python/borrowed.h"
#include "python/call_questions.h"
#include "python/cuda_loader.h"
#include "python/torch_runtime.h"

#include <stdlib.h>

/* Lists of up to 512 bytes come from Python's own allocator, larger ones from malloc: see trail.h.
 */
#define ANNOUNCED_AT_ONCE 60

#define OBJECT_BYTES 32 /* of a tensor, to the address of its C++ tensor */

bool
y5_call_reserve(y5_call *call, int64_t count)
{
    int64_t wanted = call->count + count;
    if (wanted <= call->capacity) {
        return true;
    }
    int64_t room = wanted > 2 * call->capacity ? wanted : 2 * call->capacity;
    size_t bytes = (size_t)room * sizeof(*call->held);
    y5_held *grown = call->trail != NULL ? y5_keep(call->trail, Y5_KEPT_HELD, bytes)
                                         : realloc(call->held, bytes);
    if (grown == NULL) {
        return false;
    }
    call->held = grown;
    call->capacity = room;
    return true;
}

y5_status
y5_call_add(const y5_state *state, y5_call *call, PyObject *object, uint32_t group, uint8_t needs,
            y5_error *error)
{
    if (!y5_is_plain_tensor(state, object)) {
        return y5_refuse(error, Y5_NO_PLAIN_TENSOR);
    }
    if (call->count == call->capacity &&
        !y5_call_reserve(call, call->capacity > 0 ? call->capacity : 16)) {
        return Y5_NO_MEMORY;
    }
    y5_trail_meet(call->trail, object, OBJECT_BYTES);
    Py_INCREF(object);
    call->held[call->count++] = (y5_held){.object = object, .group = group, .needs = needs};
    return Y5_OK;
}

void
y5_call_release(y5_call *call, int64_t at)
{
    call->held[at].left_out = true;
    Py_CLEAR(call->held[at].object);
}

void
y5_call_free(y5_call *call)
{
    for (int64_t i = 0; i < call->count; i++) {
        Py_CLEAR(call->held[i].object);
    }
    y5_unkeep(call->trail, call->held);
    y5_unkeep(call->trail, call->ranges);
}

/* A number that differs between descriptions of tensors, their addresses apart; never 0. */
static uint64_t
likeness_of(const y5_tensor *tensor)
{
    const uint64_t factor = 0x9E3779B97F4A7C15U;
    uint64_t mixed = ((uint64_t)tensor->dtype << 8 | (uint64_t)tensor->ndim) * factor;
    for (int32_t i = 0; i < tensor->ndim; i++) {
        mixed = (mixed ^ (uint64_t)tensor->shape[i]) * factor;
        mixed = (mixed ^ (uint64_t)tensor->strides[i] ^ mixed >> 32) * factor;
    }
    return mixed | 1;
}

static const char *
device_kind(y5_device device)
{
    return device == Y5_CUDA ? "cuda" : "cpu";
}

/* Does the tensor live where those before it do? */
static y5_status
check_place(y5_call *call, const y5_tensor *tensor, bool seen_before, y5_error *error)
{
    int32_t index = tensor->device == Y5_CUDA ? tensor->device_index : 0;
    if (!call->decided) {
        call->decided = true;
        call->device = tensor->device;
        call->device_index = index;
    }
    if (call->device == tensor->device && call->device_index == index) {
        return Y5_OK;
    }
    if (seen_before) {
        return y5_refuse(error, "tensors were moved to another device meanwhile");
    }
    return y5_fail(error, Y5_UNSUPPORTED, "",
                   "on %s:%d, but tensors before it on %s:%d; allowed is one device",
                   device_kind(tensor->device), (int)index, device_kind(call->device),
                   (int)call->device_index);
}

/* Takes the description of one tensor and checks what every plan relies on. */
static y5_status
look_at(const y5_state *state, y5_call *call, int64_t at, y5_tensor *tensor, y5_error *error)
{
    y5_held *held = &call->held[at];
    y5_status status = y5_borrow(state, held->object, tensor, &held->loan, error);
    if (status != Y5_OK) {
        return status;
    }
    if ((held->needs & Y5_PAIR_OR_NONE) && !y5_dtype_is_floating(tensor->dtype)) {
        return Y5_OK; /* the plan skips it, wherever it is */
    }
    bool seen_before = held->likeness != 0;
    status = check_place(call, tensor, seen_before, error);
    if (status != Y5_OK) {
        return status;
    }
    uint64_t likeness = likeness_of(tensor);
    if (seen_before && held->likeness != likeness) {
        return y5_refuse(error, "replaced by a tensor of another kind meanwhile");
    }
    held->likeness = likeness;
    if (y5_may_be_gone(tensor)) {
        held->questions |= ASK_STORAGE & ~held->answers;
    }
    if ((held->needs & Y5_ANY_BYTES) && tensor->dtype == Y5_INT8) {
        held->questions |= ASK_BYTES & ~held->answers;
    }
    if (tensor->device == Y5_CUDA && !y5_cuda_is_known(state, tensor->device_index)) {
        held->questions |= ASK_DEVICE;
    }
    /* A parameter without gaps is not asked: one with such values takes as_strided on a view of a
     * complex tensor, and asking each parameter of YOLOv5n costs 20 microseconds. */
    if ((held->needs & Y5_SIGNED) && (tensor->numel == 1 || !y5_tensor_is_dense(tensor))) {
        held->questions |= ASK_SIGN & ~held->answers;
    }
    return Y5_OK;
}

/* Looks at all tensors the plan wants and gives them to it. *asked: some question is open. */
static y5_status
look_at_all(const y5_state *state, y5_call *call, const y5_plan *plan, int64_t *ranges, bool *asked,
            y5_error *error)
{
    y5_tensor looked[2]; /* the latest and the one before it */
    int64_t looks = 0;
    if (plan->start != NULL) {
        plan->start(plan->data);
    }
    for (int64_t i = 0; i < call->count; i++) {
        y5_held *held = &call->held[i];
        if (!y5_is_wanted(held, plan)) {
            continue;
        }
        call->refused = i;
        if ((looks & 1) == 0) {
            y5_trail_step(call->trail);
        }
        y5_tensor *tensor = &looked[looks++ & 1];
        y5_status status = look_at(state, call, i, tensor, error);
        y5_trail_meet_tensor(call->trail, &state->torch, held->object,
                             (held->needs & Y5_ANNOUNCED) != 0);
        if (status == Y5_OK) {
            status = plan->take(plan->data, i, tensor, error);
        }
        if (status == Y5_SKIP) {
            held->left_out = true;
            call->held[++i].left_out = true;
            continue;
        }
        if (status != Y5_OK) {
            return status;
        }
        *asked = *asked || held->questions != 0;
        y5_range *range = &call->ranges[(*ranges)++];
        range->written = (held->needs & Y5_WRITTEN) != 0;
        y5_tensor_range(tensor, &range->begin, &range->end);
    }
    call->refused = -1;
    return Y5_OK;
}

static bool
is_announced(const y5_held *held)
{
    return (held->needs & Y5_ANNOUNCED) != 0 && !held->left_out;
}

/* Some of the tensors that will be written in a list, `count` of them; NULL without memory. `at`
 * goes behind the last one. */
static PyObject *
list_of_announced(const y5_call *call, int64_t *at, Py_ssize_t count)
{
    PyObject *list = PyList_New(count);
    for (Py_ssize_t filled = 0; list != NULL && filled < count; (*at)++) {
        if (is_announced(&call->held[*at])) {
            Py_INCREF(call->held[*at].object);
            PyList_SetItem(list, filled++, call->held[*at].object);
        }
    }
    return list;
}

/* Raises the versions of all `count` of them, some at a time. */
static y5_status
announce_lists(const y5_state *state, const y5_call *call, Py_ssize_t count, y5_error *error)
{
    y5_status status = Y5_OK;
    for (int64_t at = 0; count > 0 && status == Y5_OK; count -= ANNOUNCED_AT_ONCE) {
        PyObject *list =
            list_of_announced(call, &at, count < ANNOUNCED_AT_ONCE ? count : ANNOUNCED_AT_ONCE);
        status = list != NULL ? y5_call_torch(state->torch.increment_version, list,
                                              Y5_VERSION_COUNTER, error)
                              : Y5_NO_MEMORY;
        Py_DecRef(list); /* what is in it is held by the call */
    }
    return status;
}

/* Raises the versions of the tensors that will be written, with torch's C function, or notes that
 * it takes several. The last thing before the plan acts. */
static y5_status
announce(const y5_state *state, y5_call *call, bool *asked, y5_error *error)
{
    PyObject *increment = state->torch.increment_version;
    y5_status status = Y5_OK;
    Py_ssize_t count = 0;
    for (int64_t i = 0; i < call->count; i++) {
        count += is_announced(&call->held[i]);
    }
    if (call->announced || count == 0) {
        return Y5_OK;
    }
    if (increment != NULL && state->torch.increments_lists) {
        return announce_lists(state, call, count, error);
    }
    for (int64_t i = 0; i < call->count && status == Y5_OK; i++) {
        y5_held *held = &call->held[i];
        if (!is_announced(held)) {
            continue;
        }
        if (increment == NULL) {
            held->questions |= ASK_VERSION;
            *asked = true;
        } else { /* torch before 2.3 refuses inference tensors */
            call->refused = i;
            status = y5_call_torch(increment, held->object, Y5_VERSION_COUNTER, error);
        }
    }
    return status;
}

/* Holds all memory, so that it stays whatever other threads assign to tensors. */
static y5_status
hold_memory(const y5_state *state, y5_call *call, const y5_plan *plan, y5_error *error)
{
    for (int64_t i = 0; i < call->count; i++) {
        y5_held *held = &call->held[i];
        if (y5_is_wanted(held, plan)) {
            held->storage = y5_storage_of(state, held->object);
            if (held->storage == NULL) {
                call->refused = i;
                return y5_raised_by("torch's storage", error);
            }
        }
    }
    return Y5_OK;
}

/* The CUDA library and torch's stream, where the tensors live on a GPU. */
static y5_status
find_gpu(const y5_state *state, const y5_call *call, const y5_plan *plan, y5_gpu *gpu,
         y5_error *error)
{
    gpu->where = (y5_cuda_where){.device = call->device_index};
    y5_status status = y5_cuda_find(state, call->device_index, &gpu->api, error);
    if (status == Y5_OK && plan->launch == NULL && plan->run != NULL) {
        status = y5_refuse(error, "not in the CPU's memory");
    }
    return status == Y5_OK && plan->launch != NULL
               ? y5_current_stream(state, call->device_index, &gpu->where.stream, error)
               : status;
}

/* Which threads take part. Where those of torch's pool compute otherwise than this one, the work is
 * shared out as torch does, or left to it. */
static y5_status
find_threads(const y5_state *state, const y5_demand *demand, y5_run *how, bool *as_torch,
             y5_error *error)
{
    *how = y5_torch_run(state, demand->bytes);
    if (demand->torch_bytes == 0) {
        return Y5_OK;
    }
    y5_status status = y5_torch_check_pool(state, how, demand->torch_bytes, error);
    *as_torch = status != Y5_OK && demand->follows_torch;
    how->pool = *as_torch ? y5_torch_pool(state) : how->pool;
    return *as_torch && how->pool.run != NULL ? Y5_OK : status;
}

/* Switches the garbage collector on again, where it was. */
static void
collect_again(y5_call *call)
{
    if (call->collecting) {
        PyGC_Enable();
    }
    call->collecting = false;
}

static y5_status
run(const y5_plan *plan, const y5_run *how, bool as_torch, bool pinned, y5_call *call,
    y5_error *error)
{
    if (pinned) { /* others go on, with their garbage collected; all memory is held */
        collect_again(call);
    }
    PyThreadState *released = pinned ? PyEval_SaveThread() : NULL;
    y5_status status = plan->run(plan->data, how, as_torch, error);
    if (released != NULL) {
        PyEval_RestoreThread(released);
    }
    return status;
}

/* From the first address to the last use of one. *asked: nothing was done yet, for want of
 * answers. */
static y5_status
use_memory(const y5_state *state, y5_call *call, const y5_plan *plan, bool *asked, y5_error *error)
{
    int64_t ranges = 0;
    y5_demand demand = {0};
    y5_gpu gpu = {0};
    y5_run how = {0};
    bool as_torch = false;
    bool acts = plan->run != NULL || plan->launch != NULL;
    bool computes = plan->run != NULL; /* on the CPU */
    y5_status status = look_at_all(state, call, plan, &ranges, asked, error);
    if (status != Y5_OK || *asked) {
        return status;
    }
    bool on_gpu = call->device == Y5_CUDA;
    if (plan->check != NULL) {
        y5_overlap overlap = y5_find_overlap(call->ranges, call->ranges + call->count, ranges);
        status = plan->check(plan->data, overlap, &demand, error);
    }
    if (status == Y5_OK && on_gpu) {
        status = find_gpu(state, call, plan, &gpu, error);
    } else if (status == Y5_OK && !computes && acts) {
        status = y5_refuse(error, "not on a CUDA device");
    } else if (status == Y5_OK) {
        status = find_threads(state, &demand, &how, &as_torch, error);
    }
    bool pinned = acts && !on_gpu && state->torch.untyped_storage != NULL &&
                  demand.bytes >= atomic_load(&state->gil_bytes);
    if (status == Y5_OK && pinned) {
        status = hold_memory(state, call, plan, error);
    }
    if (status == Y5_OK && acts) {
        status = announce(state, call, asked, error);
    }
    if (status != Y5_OK || *asked || !acts) {
        return status;
    }
    if (on_gpu) {
        return plan->launch(plan->data, &gpu, error);
    }
    return computes ? run(plan, &how, as_torch, pinned, call, error) : status;
}

static void
return_memory(y5_call *call)
{
    for (int64_t i = 0; i < call->count; i++) {
        y5_return(&call->held[i].loan);
        Py_CLEAR(call->held[i].storage);
    }
}

y5_status
y5_call_run(const y5_state *state, y5_call *call, const y5_plan *plan, y5_error *error)
{
    bool again = true;
    y5_unkeep(call->trail, call->ranges);
    call->ranges =
        y5_keep(call->trail, Y5_KEPT_RANGES, 2 * ((size_t)call->count + 1) * sizeof(*call->ranges));
    if (call->ranges == NULL) {
        return Y5_NO_MEMORY;
    }
    y5_status status = y5_ask_ahead(state, call, plan, error);
    while (again && status == Y5_OK) {
        again = false;
        call->collecting = PyGC_Disable() != 0; /* a collection could run finalizers */
        y5_borrowing_begins();
        status = use_memory(state, call, plan, &again, error);
        y5_borrowing_ends();
        collect_again(call);
        return_memory(call);
        if (status == Y5_PYTHON_RAISED) {
            again = false; /* open questions come again with another look */
            status = y5_refused(error);
            if (status == Y5_UNSUPPORTED && call->refused >= 0 &&
                call->held[call->refused].needs & Y5_PAIR_OR_NONE) {
                status = y5_leave_out_integers(state, call, &again);
                status = status == Y5_OK && !again ? Y5_UNSUPPORTED : status;
            }
        } else if (again) {
            status = y5_answer_all(state, call, error);
        }
    }
    return status;
}

y5_status
y5_call_run_foreign(const y5_state *state, PyObject *object, const y5_plan *plan, y5_error *error)
{
    y5_loan loan = {0}; /* holds the memory */
    y5_tensor tensor;
    y5_run how = y5_torch_run(state, 0);
    y5_status status = y5_borrow_foreign(state, object, &tensor, &loan, error);
    y5_borrowing_begins();
    if (status == Y5_OK) {
        status = plan->take(plan->data, 0, &tensor, error);
    }
    if (status == Y5_OK) {
        status = plan->run(plan->data, &how, false, error);
    }
    y5_borrowing_ends();
    y5_return(&loan);
    return status;
}

y5_status
y5_call_device(const y5_call *call, PyObject **number)
{
    *number = call->device == Y5_CUDA ? PyLong_FromLong(call->device_index) : NULL;
    return call->device == Y5_CUDA && *number == NULL ? Y5_PYTHON_RAISED : Y5_OK;
}

y5_status
y5_call_allocate(const y5_state *state, y5_call *call, int64_t bytes, uint32_t group,
                 y5_error *error)
{
    PyObject *memory = PyObject_CallFunction(state->torch.allocate, "Li", (long long)bytes,
                                             (int)call->device_index);
    y5_status status = memory != NULL ? y5_call_add(state, call, memory, group, Y5_WRITTEN, error)
                                      : Y5_PYTHON_RAISED;
    Py_XDECREF(memory);
    return status;
}
