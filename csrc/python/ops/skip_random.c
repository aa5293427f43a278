/* torch's generator of random numbers for the CPU, moved on. The only file that knows how torch
 * writes the state of one into a tensor; the caller checks that the installed torch does so. */
#include "plan/skip_random.h"

#include "python/bindings.h"
#include "python/borrowed.h"
#include "python/call.h"
#include "python/errors.h"

#include <string.h>

/* The bytes of generator.get_state(): CPUGeneratorImplStateLegacy of ATen/CPUGeneratorImpl.cpp,
 * where every word takes 64 bits, and one cached float. What is cached of the normal distribution
 * stands behind the words, and stays. */
typedef struct {
    uint64_t seed;
    int32_t left;
    int32_t seeded;
    uint64_t next;
    uint64_t words[Y5_MT19937_WORDS];
    char normal[40];
} torch_state;

_Static_assert(sizeof(torch_state) == 5056, "the bytes that get_state() returns");

/* Looks at the state again while other threads go on drawing; each of Python's has at most one draw
 * to finish. */
#define MOST_LOOKS 16

/* Draws between two looks at signals: a fifth of a second. */
#define DRAWS_AT_ONCE ((uint64_t)1 << 30)

/* On the heap, since threads may have small stacks. */
typedef struct {
    torch_state before;
    torch_state now;
    torch_state after;
    y5_mt19937 generator;
} workspace;

static y5_status
skip(y5_level level, workspace *work, uint64_t draws, y5_error *error)
{
    torch_state *state = &work->after;
    y5_mt19937 *generator = &work->generator;
    generator->left = state->left;
    generator->next = (uint32_t)state->next;
    for (int i = 0; i < Y5_MT19937_WORDS; i++) {
        generator->words[i] = (uint32_t)state->words[i];
    }
    if (state->seeded != 1 || state->next > UINT32_MAX || !y5_mt19937_is_valid(generator)) {
        return y5_fail(error, Y5_UNSUPPORTED, "generator", "its state is none that a draw leaves");
    }
    while (draws > 0) {
        uint64_t part = draws < DRAWS_AT_ONCE ? draws : DRAWS_AT_ONCE;
        y5_mt19937_skip(level, generator, part);
        draws -= part;
        if (draws > 0 && PyErr_CheckSignals() < 0) {
            return Y5_PYTHON_RAISED;
        }
    }
    state->left = generator->left;
    state->next = generator->next;
    for (int i = 0; i < Y5_MT19937_WORDS; i++) {
        state->words[i] = generator->words[i];
    }
    return Y5_OK;
}

/* Copies the bytes of a tensor of get_state() to `out`, or where that is NULL `in` to it. */
static y5_status
copy_state(const y5_state *state, PyObject *object, torch_state *out, const torch_state *in,
           y5_error *error)
{
    y5_call call = {0};
    y5_skip_random_plan plan = {.out = out, .in = in, .count = sizeof(torch_state)};
    y5_plan steps = y5_skip_random_plan_steps(&plan);
    y5_status status = y5_call_add(state, &call, object, 1, in != NULL ? Y5_WRITTEN : 0, error);
    if (status == Y5_OK) {
        status = y5_call_run(state, &call, &steps, error);
    }
    if (status == Y5_UNSUPPORTED) {
        status =
            y5_fail(error, Y5_UNSUPPORTED, "generator", "its state is not as it is known here");
    }
    y5_call_free(&call);
    return status;
}

/* Replaces *tensor by what generator.get_state() returns now, and copies its bytes to `out`. */
static y5_status
look(const y5_state *state, PyObject *generator, PyObject **tensor, torch_state *out,
     y5_error *error)
{
    Py_CLEAR(*tensor);
    *tensor = PyObject_CallMethod(generator, "get_state", NULL);
    return *tensor != NULL ? copy_state(state, *tensor, out, NULL, error) : Y5_PYTHON_RAISED;
}

/* From the first look to set_state() the GIL stays, so that no thread of Python begins to draw. One
 * that has begun may finish meanwhile: then its draw counts, too. Left to chance is a draw in the
 * microsecond between the last look and set_state(), for the generator's lock is out of reach. */
static y5_status
skip_in_generator(const y5_state *state, PyObject *generator, uint64_t draws, y5_error *error)
{
    PyObject *tensor = NULL;
    bool settled = false;
    workspace *work = PyMem_Malloc(sizeof(*work));
    y5_status status =
        work != NULL ? look(state, generator, &tensor, &work->now, error) : Y5_NO_MEMORY;
    for (int32_t looks = 1; status == Y5_OK && !settled && looks < MOST_LOOKS; looks++) {
        work->before = work->after = work->now;
        status = skip(atomic_load(&state->level), work, draws, error);
        if (status == Y5_OK) {
            status = look(state, generator, &tensor, &work->now, error);
        }
        settled = status == Y5_OK && memcmp(&work->now, &work->before, sizeof(work->now)) == 0;
    }
    if (status == Y5_OK && !settled) {
        status = y5_fail(error, Y5_UNSUPPORTED, "generator", "others draw from it all the time");
    }
    if (status == Y5_OK) {
        status = copy_state(state, tensor, NULL, &work->after, error);
    }
    if (status == Y5_OK) {
        PyObject *done = PyObject_CallMethod(generator, "set_state", "O", tensor);
        status = done != NULL ? Y5_OK : Y5_PYTHON_RAISED;
        Py_XDECREF(done);
    }
    Py_XDECREF(tensor);
    PyMem_Free(work);
    return status;
}

const char y5_doc_skip_random[] =
    "skip_random(generator, draws)\n--\n\n"
    "Leave a torch.Generator of the CPU as so many draws of 32 bits leave it, without making the\n"
    "numbers. A draw of float32 is one. Unsupported, with nothing changed, for other generators.";

const y5_signature y5_signature_skip_random = {true, 2, {"generator", "draws"}};

y5_status
y5_py_skip_random(y5_state *state, PyObject *const *values, PyObject **result, y5_error *error)
{
    (void)result;
    unsigned long long draws = PyLong_AsUnsignedLongLong(values[1]);
    if (draws == (unsigned long long)-1 && PyErr_Occurred()) {
        return Y5_PYTHON_RAISED;
    }
    return skip_in_generator(state, values[0], draws, error);
}
