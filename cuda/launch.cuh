/* What the launchers share: checks of arguments, tables of items, the device's guard, the one way
 * to launch, errors as sentences. Host code only; knows no operation. */
#ifndef Y5_LAUNCH_CUH
#define Y5_LAUNCH_CUH

#include "device.cuh"
#include "grid.h"
#include "y5_cuda.h"

#include <cuda_runtime.h>

#include <type_traits>

#if CUDART_VERSION < 12010
#error "CUDA 12.1 or newer is needed: older ones have 4 KiB for a kernel's arguments"
#endif

namespace y5 {

/* Fills `error` and returns `status`. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
y5_cuda_status
fail(y5_cuda_error *error, y5_cuda_status status, const char *format, ...);

/* Y5_CUDA_OK, or what the runtime said as a sentence; `attempt` names what was tried. Takes the
 * failure out of the runtime's memory of its last one. */
y5_cuda_status check(cudaError_t code, const char *attempt, int32_t device, y5_cuda_error *error);

/* Makes a device current for as long as it lives, and then the one before. */
class device_guard {
  public:
    device_guard() : previous_(-1)
    {
    }
    ~device_guard();
    device_guard(const device_guard &) = delete;
    device_guard &operator=(const device_guard &) = delete;

    /* Also finds the number of multiprocessors. */
    y5_cuda_status enter(const y5_cuda_where *where, y5_cuda_error *error);
    int64_t multiprocessors() const
    {
        return multiprocessors_;
    }

  private:
    int previous_; /* -1: it was the right one */
    int multiprocessors_ = 0;
};

/* A kernel that launch() launches somewhere. All of them are chained when the library is opened,
 * which is the only time that the chain changes. */
class launched_kernel {
  public:
    explicit launched_kernel(const void *kernel) : kernel_(kernel), next_(first)
    {
        first = this;
    }

    /* Loads the code of all kernels onto the current device, `device`: CUDA would load each when it
     * is first launched, which may be where a graph is captured and nothing can be loaded. */
    static y5_cuda_status load_all(int32_t device, y5_cuda_error *error);

  private:
    const void *kernel_;
    const launched_kernel *next_;
    static const launched_kernel *first;
};
template <auto Kernel> inline const launched_kernel launched((const void *)Kernel);

/* Launches a kernel on `where`'s stream. `attempt` names it in a sentence. */
template <auto Kernel, typename... Arguments>
y5_cuda_status
launch(const y5_cuda_where *where, const char *attempt, dim3 grid, y5_cuda_error *error,
       const Arguments &...arguments)
{
    (void)&launched<Kernel>;
#ifdef Y5_EMULATED /* nvcc's syntax is not C++ */
    y5_emulator::launch((const void *)Kernel, __PRETTY_FUNCTION__, grid, dim3(block_threads),
                        where->stream, [&]() { Kernel(arguments...); });
#else
    Kernel<<<grid, block_threads, 0, (cudaStream_t)where->stream>>>(arguments...);
#endif
    return check(cudaGetLastError(), attempt, where->device, error);
}

/* A pointer that may be read as elements of `bytes` bytes. */
inline bool
is_aligned(const void *data, size_t bytes)
{
    return (uintptr_t)data % bytes == 0;
}

inline bool
is_floating(y5_dtype dtype)
{
    return dtype >= 0 && dtype < Y5_FLOATING_COUNT;
}

/* Y5_CUDA_OK for the elements of list[index] as they must be: of a number that a table takes, there
 * and aligned. */
y5_cuda_status check_elements(const char *list, int64_t index, const void *data, int64_t numel,
                              size_t alignment, y5_cuda_error *error);

/* check(item, number, error) for all items, up to the first failure. */
template <typename Item>
y5_cuda_status
check_all(const Item *items, int64_t count,
          y5_cuda_status (*check)(const Item *, int64_t, y5_cuda_error *), y5_cuda_error *error)
{
    y5_cuda_status status = Y5_CUDA_OK;
    for (int64_t i = 0; i < count && status == Y5_CUDA_OK; i++) {
        status = check(&items[i], i, error);
    }
    return status;
}

/* Chunks of a table must fit its 32-bit numbers, elements the 60 bits ema packs them into. */
constexpr int64_t numel_limit = (int64_t)1 << 42;

inline dim3
blocks(int64_t x)
{
    return dim3((unsigned int)x);
}

/* Fills a table with items from `first` on; returns the first that is left. `fill(i, &entry)`
 * returns the item's chunks. */
template <typename Table, typename Fill>
int64_t
fill_table(Table *table, int64_t first, int64_t count, Fill fill)
{
    table->count = 0;
    table->chunks = 0;
    int64_t i = first;
    for (; i < count && table->count < (uint32_t)Table::capacity; i++) {
        int64_t chunks = fill(i, &table->entries[table->count]);
        if (chunks > (int64_t)UINT32_MAX - table->chunks) {
            break; /* the next table's; numel_limit keeps one item below this */
        }
        table->first_chunk[table->count++] = table->chunks;
        table->chunks += (uint32_t)chunks;
    }
    table->first_chunk[table->count] = table->chunks;
    return i;
}

/* All items in as few launches as their number allows: one for up to many_items' capacity.
 * `launcher` has, for few_items<Entry> and many_items<Entry>, y5_cuda_status operator()(const Table
 * &table, int64_t first) All launches of a call are of one kernel, stream and size of arguments, so
 * that what is wrong with any of these fails the first, when nothing is written yet. */
template <typename Entry, typename Fill, typename Launcher>
y5_cuda_status
launch_tables(int64_t count, Fill fill, Launcher launcher)
{
    if (count <= few_items<Entry>::capacity) {
        few_items<Entry> table;
        int64_t done = fill_table(&table, 0, count, fill);
        if (done == count) {
            return table.chunks > 0 ? launcher(table, 0) : Y5_CUDA_OK;
        }
    }
    many_items<Entry> table;
    y5_cuda_status status = Y5_CUDA_OK;
    for (int64_t first = 0; first < count && status == Y5_CUDA_OK;) {
        int64_t next = fill_table(&table, first, count, fill);
        if (table.chunks > 0) {
            status = launcher(table, first);
        }
        first = next;
    }
    return status;
}

} // namespace y5

#endif
