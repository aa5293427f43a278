/* torch's generator of random numbers for the CPU, moved on. The only file that knows how torch
 * writes the state of one into a tensor; the caller checks that the installed torch does so. */
#include "core/ops.h"
#include "python/args.h"
#include "python/bindings.h"
#include "python/errors.h"
#include "python/tensor.h"

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

/* Moves the state in these bytes on. */
static y5_status
skip(y5_level level, char *bytes, uint64_t draws, y5_error *error)
{
    torch_state state; /* a copy, for the bytes may be aligned in any way */
    y5_mt19937 generator;
    memcpy(&state, bytes, sizeof(state));
    generator.left = state.left;
    generator.next = (uint32_t)state.next;
    for (int i = 0; i < Y5_MT19937_WORDS; i++) {
        generator.words[i] = (uint32_t)state.words[i];
    }
    if (state.seeded != 1 || state.next > UINT32_MAX || !y5_mt19937_is_valid(&generator)) {
        return y5_fail(error, Y5_UNSUPPORTED, "generator", "its state is none that a draw leaves");
    }
    y5_mt19937_skip(level, &generator, draws);
    state.left = generator.left;
    state.next = generator.next;
    for (int i = 0; i < Y5_MT19937_WORDS; i++) {
        state.words[i] = generator.words[i];
    }
    memcpy(bytes, &state, sizeof(state));
    return Y5_OK;
}

static y5_status
skip_in_tensor(const y5_state *state, PyObject *object, uint64_t draws, y5_error *error)
{
    y5_loan loan = {0};
    y5_tensor tensor;
    y5_status status = Y5_OK;
    if (!y5_is_plain_tensor(state, object)) {
        return y5_fail(error, Y5_UNSUPPORTED, "generator", "its state is not a plain torch.Tensor");
    }
    status = y5_borrow(state, object, &tensor, &loan, error);
    if (status == Y5_OK && (tensor.dtype != Y5_INT8 || tensor.ndim != 1 ||
                            tensor.numel != sizeof(torch_state) || tensor.strides[0] != 1)) {
        status =
            y5_fail(error, Y5_UNSUPPORTED, "generator", "its state is not as it is known here");
    }
    if (status == Y5_OK) {
        status = skip(atomic_load(&state->level), tensor.data, draws, error);
    }
    y5_return(&loan);
    return status;
}

const char y5_doc_skip_random[] =
    "skip_random(generator, draws)\n--\n\n"
    "Leave a torch.Generator of the CPU as so many draws of 32 bits leave it, without making the\n"
    "numbers. A draw of float32 is one. Unsupported, with nothing changed, for other generators.";

PyObject *
y5_py_skip_random(PyObject *module, PyObject *const *arguments, Py_ssize_t count,
                  PyObject *keywords)
{
    static const y5_signature signature = {"skip_random", 2, {"generator", "draws"}};
    const y5_state *state = PyModule_GetState(module);
    PyObject *values[2];
    if (!y5_parse(&signature, arguments, count, keywords, values)) {
        return NULL;
    }
    unsigned long long draws = PyLong_AsUnsignedLongLong(values[1]);
    if (draws == (unsigned long long)-1 && PyErr_Occurred()) {
        return NULL;
    }
    y5_error error = {0};
    PyObject *bytes = NULL;
    PyObject *done = NULL;
    y5_status status = y5_check_environment(state, &error);
    if (status == Y5_OK) {
        /* From here to set_state() the GIL stays, so that no draw of another thread is undone. */
        bytes = PyObject_CallMethod(values[0], "get_state", NULL);
        status = bytes != NULL ? skip_in_tensor(state, bytes, draws, &error) : Y5_PYTHON_RAISED;
    }
    if (status == Y5_OK) {
        done = PyObject_CallMethod(values[0], "set_state", "O", bytes);
        status = done != NULL ? Y5_OK : Y5_PYTHON_RAISED;
    }
    Py_XDECREF(done);
    Py_XDECREF(bytes);
    if (status != Y5_OK) {
        return y5_raise(state, status, &error);
    }
    Py_RETURN_NONE;
}
