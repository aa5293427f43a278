/* Opens the driver, loads the kernels into each device's context, and launches them. */
#include "driver.h"

#include "core/dl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef Y5_CUDA_DRIVER /* the tests have one of their own */
#define Y5_CUDA_DRIVER "libcuda.so.1"
#endif

#define OLDEST_DRIVER 12010 /* with it came more than 4 KiB of arguments */
#define KNOWN_DEVICES 128

enum { /* the driver's numbers */
       MULTIPROCESSORS = 16,
       CAPABILITY_MAJOR = 75,
       CAPABILITY_MINOR = 76,
       CAPTURE_MODE_RELAXED = 2,
       INVALID_CONTEXT = 201,
       INVALID_HANDLE = 400,
       CONTEXT_IS_DESTROYED = 709,
};

typedef struct {
#define X(name, symbol, arguments) int(*name) arguments;
    Y5_DRIVER_FUNCTIONS(X)
#undef X
} functions;

/* Machine code and PTX of all kernels, as the driver takes them. */
extern const unsigned char y5_cuda_image[];

/* Written while they are found and then only read; whoever finds them, finds the same. */
static functions driver;
static atomic_bool driver_found;

/* A device's kernels once they are loaded. Two threads may load them at the same time, of which one
 * throws its own away: no lock that a forked child would find locked. */
static _Atomic(y5_cuda_device *) devices[KNOWN_DEVICES];

y5_cuda_status
y5_cuda_fail(y5_cuda_error *error, y5_cuda_status status, const char *format, ...)
{
    error->code = 0;
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(error->message, sizeof(error->message), format, arguments);
    va_end(arguments);
    return status;
}

/* What an error means, by CUresult's numbers. torch's own runtime and kernels often mind nothing of
 * what fails here; where they do, torch raises. */
static y5_cuda_status
verdict_on(int code)
{
    switch (code) {
    case 34:  /* the driver is a stub */
    case 36:  /* older than a call needs */
    case 100: /* no device */
    case 803: /* not of its own libraries' release */
    case 804: /* of a release that the chip is not for */
        return Y5_CUDA_NO_DRIVER;
    case 200: /* a bad image */
    case 209: /* no image for the chip */
    case 218: /* bad PTX */
    case 221: /* no compiler for PTX */
    case 222: /* PTX that is too new */
    case 223: /* compiling is switched off */
    case 224: /* a share of the device that it cannot give */
    case 225: /* PTX that synchronises */
    case 300: /* bad source */
    case 500: /* no such function in the image */
    case 801: /* not supported */
        return Y5_CUDA_NO_KERNEL;
    case 101: /* no such device */
        return Y5_CUDA_BAD_ARGUMENT;
    case 214:                  /* memory */
    case 220:                  /* NVLink */
    case 226:                  /* a contained error */
    case 700:                  /* an illegal address */
    case 702:                  /* a kernel that ran too long */
    case 710:                  /* an assertion */
    case 714:                  /* the call stack */
    case 715:                  /* an illegal instruction */
    case 716:                  /* a misaligned address */
    case 717:                  /* an address space */
    case 718:                  /* the program counter */
    case 719:                  /* any other fault of a kernel */
    case 721:                  /* tensor memory */
    case 810:                  /* the server of the device has ended this process' work */
    case 911:                  /* another device */
        return Y5_CUDA_FAILED; /* the process can use no device any more */
    default:
        return Y5_CUDA_NOT_NOW;
    }
}

/* Y5_CUDA_OK, or a status and a sentence for what the driver reported. */
static y5_cuda_status
check(int code, const char *attempt, int32_t device, y5_cuda_error *error)
{
    if (code == 0) {
        return Y5_CUDA_OK;
    }
    const char *name = NULL;
    const char *text = NULL;
    (void)driver.error_name(code, &name); /* leave NULL for a number they do not know */
    (void)driver.error_text(code, &text);
    name = name != NULL ? name : "unknown";
    text = text != NULL ? text : "an error that this driver has no words for";
    y5_cuda_status status = verdict_on(code);
    if (status == Y5_CUDA_NO_DRIVER) {
        y5_cuda_fail(error, status, "no CUDA device can be used: %s (%s, CUresult %d)", text, name,
                     code);
    } else if (status == Y5_CUDA_NO_KERNEL) {
        int major = 0;
        int minor = 0;
        (void)driver.get_attribute(&major, CAPABILITY_MAJOR, device);
        (void)driver.get_attribute(&minor, CAPABILITY_MINOR, device);
        y5_cuda_fail(error, status,
                     "the CUDA library does not run on device %d, an sm_%d%d chip: %s (%s, "
                     "CUresult %d); it was built for %s",
                     (int)device, major, minor, text, name, code, Y5_CUDA_ARCHITECTURES);
    } else if (status == Y5_CUDA_BAD_ARGUMENT) {
        y5_cuda_fail(error, status, "%s: there is no device %d", attempt, (int)device);
    } else {
        y5_cuda_fail(error, status, "%s on device %d: %s (%s, CUresult %d)", attempt, (int)device,
                     text, name, code);
    }
    error->code = code;
    return status;
}

/* Opens the driver and finds its functions, if nobody did. */
static y5_cuda_status
find_driver(y5_cuda_error *error)
{
    if (atomic_load(&driver_found)) {
        return Y5_CUDA_OK;
    }
    void *library = dlopen(Y5_CUDA_DRIVER, RTLD_NOW | RTLD_LOCAL); /* for good */
    if (library == NULL) {
        const char *words = dlerror();
        return y5_cuda_fail(error, Y5_CUDA_NO_DRIVER, "no NVIDIA driver is installed: %s",
                            words != NULL ? words : "no reason given");
    }
    functions found;
    const struct {
        const char *symbol;
        void *place;
    } wanted[] = {
#define X(name, symbol, arguments) {#symbol, &found.name},
        Y5_DRIVER_FUNCTIONS(X)
#undef X
    };
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        void *address = dlsym(library, wanted[i].symbol);
        if (address == NULL) {
            return y5_cuda_fail(error, Y5_CUDA_NO_DRIVER,
                                "the NVIDIA driver lacks %s, which those for CUDA %d.%d and newer "
                                "have: update the driver",
                                wanted[i].symbol, OLDEST_DRIVER / 1000, OLDEST_DRIVER % 1000 / 10);
        }
        *(void **)wanted[i].place = address;
    }
    driver = found;
    atomic_store(&driver_found, true);
    return Y5_CUDA_OK;
}

/* A driver that can be used, and a device that is there. */
static y5_cuda_status
check_machine(int32_t device, y5_cuda_error *error)
{
    int version = 0;
    int count = 0;
    y5_cuda_status status = find_driver(error);
    if (status == Y5_CUDA_OK) {
        status = check(driver.version(&version), "asking for the driver", device, error);
    }
    if (status == Y5_CUDA_OK && version < OLDEST_DRIVER) {
        return y5_cuda_fail(error, Y5_CUDA_NO_DRIVER,
                            "the NVIDIA driver is for CUDA %d.%d, and the CUDA library needs one "
                            "for %d.%d or newer: update the driver",
                            version / 1000, version % 1000 / 10, OLDEST_DRIVER / 1000,
                            OLDEST_DRIVER % 1000 / 10);
    }
    if (status == Y5_CUDA_OK) {
        status = check(driver.start(0), "starting the driver", device, error);
    }
    if (status == Y5_CUDA_OK) {
        status = check(driver.count_devices(&count), "counting devices", device, error);
    }
    if (status == Y5_CUDA_OK && (device < 0 || device >= smaller(count, KNOWN_DEVICES))) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT, "there is no device %d, only %d in all",
                            (int)device, count);
    }
    return status;
}

/* Loads all kernels into the current context: the driver would load each when it is first launched,
 * which may be where a graph is captured and nothing can be loaded. */
static y5_cuda_status
load_kernels(y5_cuda_device *made, int handle, int32_t device, y5_cuda_error *error)
{
    static const char *const names[] = {
#define X(name) "y5_" #name,
        Y5_KERNELS(X)
#undef X
    };
    const char *attempt = "loading the kernels";
    int processors = 0;
    y5_cuda_status status = check(driver.get_attribute(&processors, MULTIPROCESSORS, handle),
                                  "asking for the multiprocessors", device, error);
    if (status == Y5_CUDA_OK) {
        status = check(driver.load_module(&made->module, y5_cuda_image), attempt, device, error);
    }
    for (int i = 0; i < KERNELS && status == Y5_CUDA_OK; i++) {
        int blocks = 0;
        int code = driver.get_function(&made->functions[i], made->module, names[i]);
        if (code == 0) {
            code = driver.occupancy(&blocks, made->functions[i], block_threads, 0);
        }
        made->resident[i] = (int64_t)processors * blocks;
        status = check(code, attempt, device, error);
    }
    return status;
}

/* load_kernels() in the device's context. This thread may meanwhile do what the driver takes for a
 * mistake while a graph is captured, here or in another thread: to load code. */
static y5_cuda_status
load_device(y5_cuda_device *made, int32_t device, y5_cuda_error *error)
{
    int handle = 0;
    int mode = CAPTURE_MODE_RELAXED; /* later the one before */
    void *own = NULL;
    y5_cuda_status status = check_machine(device, error);
    if (status == Y5_CUDA_OK) {
        status = check(driver.get_device(&handle, device), "finding the device", device, error);
    }
    if (status == Y5_CUDA_OK) {
        status = check(driver.retain(&made->context, handle), "starting the device", device, error);
    }
    if (status == Y5_CUDA_OK) {
        status = check(driver.push(made->context), "choosing the device", device, error);
    }
    if (status != Y5_CUDA_OK) {
        return status;
    }
    status = check(driver.exchange_capture_mode(&mode), "allowing to load code", device, error);
    if (status == Y5_CUDA_OK) {
        status = load_kernels(made, handle, device, error);
        (void)driver.exchange_capture_mode(&mode); /* as before; nobody is left to be told */
    }
    if (status != Y5_CUDA_OK && made->module != NULL) {
        (void)driver.unload_module(made->module);
    }
    (void)driver.pop(&own);
    return status;
}

/* The device with its kernels, loaded now where nobody did; NULL with a status where that failed.
 */
static y5_cuda_device *
find_device(int32_t device, y5_cuda_status *status, y5_cuda_error *error)
{
    bool known = device >= 0 && device < KNOWN_DEVICES;
    y5_cuda_device *found = known ? atomic_load(&devices[device]) : NULL;
    *status = Y5_CUDA_OK;
    if (found != NULL && !atomic_load(&found->stale)) {
        return found;
    }
    y5_cuda_device *made = calloc(1, sizeof(*made));
    if (made == NULL) {
        *status = y5_cuda_fail(error, Y5_CUDA_NOT_NOW, "no memory for a device's kernels");
        return NULL;
    }
    made->before = found;
    *status = load_device(made, device, error);
    if (*status == Y5_CUDA_OK && atomic_compare_exchange_strong(&devices[device], &found, made)) {
        return made;
    }
    if (*status == Y5_CUDA_OK) { /* another thread was quicker, and `found` is its own */
        (void)driver.unload_module(made->module);
    }
    free(made);
    return *status == Y5_CUDA_OK ? found : NULL;
}

/* check(), which also notes that the device's context is no more, as after cudaDeviceReset(): the
 * next call loads anew. */
static y5_cuda_status
check_use(const y5_cuda_call *call, int code, const char *attempt)
{
    if (code == INVALID_CONTEXT || code == INVALID_HANDLE || code == CONTEXT_IS_DESTROYED) {
        atomic_store(&call->device->stale, true);
    }
    return check(code, attempt, call->where->device, call->error);
}

y5_cuda_status
y5_cuda_enter(y5_cuda_call *call, const y5_cuda_where *where, y5_cuda_error *error)
{
    call->where = where;
    call->error = error;
    y5_cuda_status status;
    call->device = find_device(where->device, &status, error);
    return call->device != NULL
               ? check_use(call, driver.push(call->device->context), "choosing the device")
               : status;
}

y5_cuda_status
y5_cuda_leave(y5_cuda_status status)
{
    void *own = NULL;
    (void)driver.pop(&own); /* it was pushed, so that it can be popped */
    return status;
}

y5_cuda_status
y5_cuda_launch(const y5_cuda_call *call, int kernel, const char *attempt, y5_grid grid,
               void **arguments)
{
    return check_use(call,
                     driver.launch(call->device->functions[kernel], (unsigned int)grid.x,
                                   (unsigned int)grid.y, (unsigned int)grid.z, block_threads, 1, 1,
                                   0, call->where->stream, arguments, NULL),
                     attempt);
}

y5_cuda_status
y5_cuda_clear(const y5_cuda_call *call, const char *attempt, void *data, int64_t bytes)
{
    return check_use(call, driver.clear((uintptr_t)data, 0, (size_t)bytes, call->where->stream),
                     attempt);
}
