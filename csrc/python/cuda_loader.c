/* Opens the CUDA library and checks that it is the one this extension was written against. Nothing
 * of it is called, and nothing of its table but version and size is read, before that. */
#include "python/cuda_loader.h"

#include "core/dl.h"

#include <stdio.h>
#include <string.h>

/* Devices that can be used here: torch itself is built for 64, since 2.6 for 120. */
#define KNOWN_DEVICES 128

#define REMEDY "build the extension and the library from the same release (docs/gpu.md)"

/* Everything known of the library. Read and written under the GIL. */
struct y5_cuda {
    char *path;             /* NULL: none is installed */
    const y5_cuda_api *api; /* NULL: not open */
    bool judged;            /* problem and api are valid */
    char problem[sizeof(((y5_error *)NULL)->message)];
    bool runs[KNOWN_DEVICES];      /* the library has agreed to run on the device */
    char *refusals[KNOWN_DEVICES]; /* why it has not, once it was asked */
};

static void
forget(struct y5_cuda *cuda)
{
    for (int32_t i = 0; i < KNOWN_DEVICES; i++) {
        PyMem_Free(cuda->refusals[i]);
    }
    PyMem_Free(cuda->path);
    memset(cuda, 0, sizeof(*cuda));
}

static char *
copy_text(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = PyMem_Malloc(bytes);
    return copy != NULL ? memcpy(copy, text, bytes) : NULL;
}

bool
y5_cuda_start(y5_state *state)
{
    state->cuda = PyMem_Calloc(1, sizeof(*state->cuda));
    return state->cuda != NULL;
}

bool
y5_cuda_set_path(y5_state *state, const char *path)
{
    char *copy = path != NULL ? copy_text(path) : NULL;
    if (path != NULL && copy == NULL) {
        return false;
    }
    forget(state->cuda);
    state->cuda->path = copy;
    return true;
}

void
y5_cuda_stop(y5_state *state)
{
    if (state->cuda != NULL) {
        forget(state->cuda);
        PyMem_Free(state->cuda);
        state->cuda = NULL;
    }
}

/* False for a file that is cut off, as by a disk that was full: to load one ends the process with
 * SIGBUS. An ELF file, here of 64 bits and little-endian, ends with its table of sections. */
static bool
is_whole(const char *path)
{
    unsigned char header[64] = {0};
    uint64_t table = 0;
    uint16_t shape[2] = {0, 0}; /* bytes of an entry, entries */
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return true; /* dlopen() says why */
    }
    size_t got = fread(header, 1, sizeof(header), file);
    (void)fseek(file, 0, SEEK_END);
    long size = ftell(file); /* -1, which is long enough below, where the file has no size */
    (void)fclose(file);
    if (got < sizeof(header) || memcmp(header,
                                       "\x7f"
                                       "ELF\2\1",
                                       6) != 0) {
        return true; /* as above */
    }
    memcpy(&table, header + 40, sizeof(table));
    memcpy(shape, header + 58, sizeof(shape));
    return (uint64_t)size >= table + (uint64_t)shape[0] * shape[1];
}

/* The function that hands out the table, or NULL with the problem noted. */
static y5_cuda_get_api_function
open_library(struct y5_cuda *cuda)
{
    y5_cuda_get_api_function get_api = NULL;
    if (!is_whole(cuda->path)) {
        snprintf(cuda->problem, sizeof(cuda->problem),
                 "the CUDA library is cut off (%s): install the package again", cuda->path);
        return NULL;
    }
    void *library = dlopen(cuda->path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *words = dlerror();
        snprintf(cuda->problem, sizeof(cuda->problem), "the CUDA library cannot be loaded: %s",
                 words != NULL ? words : "no reason given");
        return NULL;
    }
    void *symbol = dlsym(library, Y5_CUDA_SYMBOL);
    if (symbol == NULL) {
        snprintf(cuda->problem, sizeof(cuda->problem), "%s is no CUDA library of this package: %s",
                 cuda->path, "it lacks " Y5_CUDA_SYMBOL);
        dlclose(library);
        return NULL;
    }
    memcpy(&get_api, &symbol, sizeof(symbol));
    return get_api; /* the library stays open as long as the process */
}

static bool
is_complete(const y5_cuda_api *api)
{
    return api->architectures != NULL && api->check_device != NULL && api->ema_update != NULL &&
           api->sparsity_count != NULL && api->fuse != NULL && api->prune_workspace_bytes != NULL &&
           api->prune != NULL && api->scale_img != NULL && api->sparsity_sum != NULL;
}

static bool
is_counted(int32_t device_index)
{
    return device_index >= 0 && device_index < KNOWN_DEVICES;
}

/* Opens the library if nobody did, and sets api or problem. */
static void
judge(struct y5_cuda *cuda)
{
    if (cuda->judged) {
        return;
    }
    cuda->judged = true;
    if (cuda->path == NULL) {
        snprintf(cuda->problem, sizeof(cuda->problem),
                 "the CUDA library is not installed (docs/gpu.md)");
        return;
    }
    y5_cuda_get_api_function get_api = open_library(cuda);
    if (get_api == NULL) {
        return;
    }
    const y5_cuda_api *api = get_api();
    if (api == NULL) {
        snprintf(cuda->problem, sizeof(cuda->problem), "the CUDA library gave no table: " REMEDY);
    } else if (api->abi_version != Y5_CUDA_ABI_VERSION) {
        snprintf(cuda->problem, sizeof(cuda->problem),
                 "the CUDA library has ABI version %u, this extension needs %d: " REMEDY,
                 (unsigned)api->abi_version, Y5_CUDA_ABI_VERSION);
    } else if (api->struct_bytes < sizeof(y5_cuda_api)) {
        snprintf(cuda->problem, sizeof(cuda->problem),
                 "the CUDA library's table has %u bytes, this extension needs %u: " REMEDY,
                 (unsigned)api->struct_bytes, (unsigned)sizeof(y5_cuda_api));
    } else if (!is_complete(api)) {
        snprintf(cuda->problem, sizeof(cuda->problem),
                 "the CUDA library's table lacks a function: " REMEDY);
    } else {
        cuda->api = api;
    }
}

bool
y5_cuda_is_known(const y5_state *state, int32_t device_index)
{
    struct y5_cuda *cuda = state->cuda;
    judge(cuda);
    return cuda->api == NULL || !is_counted(device_index) || cuda->runs[device_index] ||
           cuda->refusals[device_index] != NULL;
}

/* True for an answer that a device gives as long as the process lasts. */
static bool
is_final(y5_cuda_status status)
{
    return status != Y5_CUDA_NOT_NOW && status != Y5_CUDA_FAILED;
}

/* Asks the library whether it runs on the device, and remembers an answer that is final. */
static y5_status
ask(struct y5_cuda *cuda, int32_t device_index, y5_error *error)
{
    const y5_cuda_api *api = cuda->api;
    y5_cuda_error told = {0};
    PyThreadState *released = PyEval_SaveThread();
    y5_cuda_status status = api->check_device(device_index, &told);
    PyEval_RestoreThread(released);
    if (!is_final(status)) {
        return y5_cuda_status_of(status, &told, error);
    }
    /* Meanwhile another library may have been set, or another thread have got the answer. */
    if (cuda->api == api && !cuda->runs[device_index] && cuda->refusals[device_index] == NULL) {
        cuda->runs[device_index] = status == Y5_CUDA_OK;
        cuda->refusals[device_index] = status != Y5_CUDA_OK ? copy_text(told.message) : NULL;
    }
    return y5_cuda_status_of(status, &told, error);
}

y5_status
y5_cuda_find(const y5_state *state, int32_t device_index, const y5_cuda_api **api, y5_error *error)
{
    struct y5_cuda *cuda = state->cuda;
    y5_status status = Y5_OK;
    *api = NULL;
    judge(cuda);
    if (cuda->api == NULL) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "%s", cuda->problem);
    }
    if (!is_counted(device_index)) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "CUDA device %d, allowed are 0 to %d",
                       (int)device_index, KNOWN_DEVICES - 1);
    }
    if (cuda->refusals[device_index] != NULL) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "%s", cuda->refusals[device_index]);
    }
    *api = cuda->api;
    if (!cuda->runs[device_index]) {
        status = ask(cuda, device_index, error);
    }
    *api = status == Y5_OK ? *api : NULL;
    return status;
}

PyObject *
y5_cuda_facts(const y5_state *state, int32_t device_index)
{
    y5_error error = {0};
    judge(state->cuda);
    const y5_cuda_api *api = state->cuda->api;
    const y5_cuda_api *found = api;
    bool runs = api != NULL &&
                (device_index < 0 || y5_cuda_find(state, device_index, &found, &error) == Y5_OK);
    const char *problem = api == NULL ? state->cuda->problem : error.message;
    size_t length = strlen(problem); /* a path in it may be no UTF-8 */
    PyObject *text = PyUnicode_DecodeUTF8(problem, (Py_ssize_t)length, "replace");
    PyObject *facts = text == NULL
                          ? NULL
                          : Py_BuildValue("{s:O, s:z, s:i}", "problem", runs ? Py_None : text,
                                          "architectures", api != NULL ? api->architectures : NULL,
                                          "toolkit", api != NULL ? (int)api->toolkit_version : 0);
    Py_XDECREF(text);
    return facts;
}
