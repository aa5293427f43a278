/* time_synchronized. Remembers no answer of torch's: where torch.cuda.is_available(),
 * torch.cuda.synchronize() and time.time() are still torch's and Python's own, it asks what they
 * ask at each call; where one was replaced, it is called as it is. */
#include "python/bindings.h"
#include "python/borrowed.h"
#include "python/errors.h"

#include <stdlib.h>
#include <time.h>

/* The value of an attribute of a module of the clock; NULL where it has none, or with an exception:
 * a module's dict may have keys that are no strings. */
static PyObject *
look_up(const y5_state *state, int32_t module, int32_t name)
{
    return y5_dict_get(state->torch.clock_dicts[module], state->names[name]);
}

/* 1 where the attribute is this object, -1 with an exception. */
static int
is_still(const y5_state *state, int32_t module, int32_t name, const PyObject *object)
{
    PyObject *found = look_up(state, module, name);
    int same = found == NULL && PyErr_Occurred() ? -1 : found == object;
    Py_XDECREF(found);
    return same;
}

/* What torch's own is_available() answers, from the number of devices, which torch counts once in a
 * process: 1 or 0, or -1 with an exception. */
static int
is_available(const y5_state *state)
{
    PyObject *get_device_count = look_up(state, Y5_CLOCK_TORCH_C, Y5_NAME_GET_DEVICE_COUNT);
    PyObject *count = get_device_count != NULL ? PyObject_CallNoArgs(get_device_count) : NULL;
    Py_XDECREF(get_device_count);
    long devices = count != NULL ? PyLong_AsLong(count) : -1;
    Py_XDECREF(count);
    return PyErr_Occurred() ? -1 : devices > 0;
}

/* 1 once torch has initialised CUDA in this process: is_available() is true for good then, and
 * synchronize() is no more than the wait itself. In a child of such a process it raises. -1 with an
 * exception: asking may run Python code. */
static int
is_initialized(const y5_state *state)
{
    PyObject *cuda = state->torch.clock[Y5_CLOCK_CUDA];
    int initialized = is_still(state, Y5_CLOCK_CUDA, Y5_NAME_INITIALIZED, Py_True);
    if (initialized != 1) {
        return initialized;
    }
    PyObject *answer = PyObject_CallMethodObjArgs(cuda, state->names[Y5_NAME_IS_IN_BAD_FORK], NULL);
    int usable = answer == NULL ? -1 : answer == Py_False;
    Py_XDECREF(answer);
    return usable;
}

/* The original's two lines. False with an exception set. */
static bool
wait_as_torch(const y5_state *state)
{
    PyObject *torch = state->torch.clock[Y5_CLOCK_TORCH];
    PyObject *cuda = PyObject_GetAttr(torch, state->names[Y5_NAME_CUDA]);
    PyObject *answer = NULL;
    PyObject *waited = NULL;
    int available = -1;
    if (cuda != NULL) {
        answer = PyObject_CallMethodObjArgs(cuda, state->names[Y5_NAME_IS_AVAILABLE], NULL);
    }
    if (answer != NULL) {
        available = PyObject_IsTrue(answer);
    }
    if (available == 1) {
        waited = PyObject_CallMethodObjArgs(cuda, state->names[Y5_NAME_SYNCHRONIZE], NULL);
    }
    bool done = available == 0 || waited != NULL;
    Py_XDECREF(waited);
    Py_XDECREF(answer);
    Py_XDECREF(cuda);
    return done;
}

/* False with an exception set: torch's own, where the device reports an error. */
static bool
wait_for_device(const y5_state *state)
{
    PyObject *const *clock = state->torch.clock;
    int own = is_still(state, Y5_CLOCK_TORCH, Y5_NAME_CUDA, clock[Y5_CLOCK_CUDA]);
    if (own == 1) {
        own = is_still(state, Y5_CLOCK_CUDA, Y5_NAME_IS_AVAILABLE, clock[Y5_CLOCK_IS_AVAILABLE]);
    }
    if (own != 1) {
        return own == 0 && wait_as_torch(state);
    }
    int without_cuda = is_still(state, Y5_CLOCK_TORCH_C, Y5_NAME_GET_DEVICE_COUNT, NULL);
    if (without_cuda != 0) {
        return without_cuda == 1; /* is_available() asks just this */
    }
    if (getenv("PYTORCH_NVML_BASED_CUDA_CHECK") != NULL) {
        return wait_as_torch(state); /* there is_available() asks the driver */
    }
    int initialized = is_initialized(state);
    int available = initialized == 0 ? is_available(state) : 1;
    if (initialized < 0 || available <= 0) {
        return initialized >= 0 && available == 0;
    }
    if (initialized == 1) {
        own = is_still(state, Y5_CLOCK_CUDA, Y5_NAME_SYNCHRONIZE, clock[Y5_CLOCK_SYNCHRONIZE]);
    }
    if (own != 1) {
        return own == 0 && wait_as_torch(state);
    }
    PyObject *synchronize =
        initialized == 1 ? look_up(state, Y5_CLOCK_TORCH_C, Y5_NAME_CUDA_SYNCHRONIZE) : NULL;
    if (synchronize == NULL && PyErr_Occurred()) {
        return false;
    }
    /* torch's C function waits for the current device without the GIL and raises torch's errors. */
    PyObject *waited = synchronize != NULL
                           ? PyObject_CallObject(synchronize, NULL)
                           : PyObject_CallMethodObjArgs(clock[Y5_CLOCK_CUDA],
                                                        state->names[Y5_NAME_SYNCHRONIZE], NULL);
    Py_XDECREF(synchronize);
    Py_XDECREF(waited);
    return waited != NULL;
}

/* time.time(), with its rounding. */
static PyObject *
read_clock(const y5_state *state)
{
    PyObject *module = state->torch.clock[Y5_CLOCK_TIME];
    struct timespec now;
    int own = is_still(state, Y5_CLOCK_TIME, Y5_NAME_TIME, state->torch.clock[Y5_CLOCK_TIME_TIME]);
    if (own < 0) {
        return NULL;
    }
    if (own == 1 && clock_gettime(CLOCK_REALTIME, &now) == 0) {
        int64_t nanoseconds = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
        return PyFloat_FromDouble(now.tv_nsec == 0 ? (double)now.tv_sec
                                                   : (double)nanoseconds / 1e9);
    }
    return PyObject_CallMethodObjArgs(module, state->names[Y5_NAME_TIME], NULL);
}

const char y5_doc_time_synchronized[] =
    "time_synchronized()\n--\n\n"
    "time.time() once the current CUDA device, where one is available, has finished its work.\n\n"
    "Seconds as a float. Never initialises CUDA where torch.cuda.is_available() is false; raises\n"
    "torch's error where the device reports one. Path: C; what tests have put in place of\n"
    "torch.cuda.is_available, torch.cuda.synchronize or time.time is called as it is. Source of\n"
    "the semantics: YOLOv5 3.0 and later (time_sync from 6.0 on).\n\n"
    ">>> start = time_synchronized()\n>>> time_synchronized() >= start\nTrue";

PyObject *
y5_py_time_synchronized(y5_state *state)
{
    if (state->torch.clock[Y5_CLOCK_TORCH] == NULL) {
        y5_error error = {0};
        y5_status status = y5_fail(&error, Y5_UNSUPPORTED, "", Y5_NOT_REGISTERED);
        return y5_raise(state, status, &error);
    }
    int64_t calls = atomic_load_explicit(&state->clock_calls, memory_order_relaxed);
    atomic_store_explicit(&state->clock_calls, calls + 1, memory_order_relaxed); /* GIL held */
    return wait_for_device(state) ? read_clock(state) : NULL;
}
