/* The advice of madvise, where there is one. */
#if defined(__linux__)
#define _DEFAULT_SOURCE /* madvise */
#include <sys/mman.h>
#endif

#include "core/huge_pages.h"

/* From this size on memory is asked to be backed by huge pages of 2 MiB: fresh memory otherwise
 * costs a page fault per 4 KiB, more than the arithmetic (benchmarks/bench_scale_img.py,
 * benchmarks/bench_fuse.py). */
#define HUGE_OUTPUT_BYTES ((int64_t)4 << 20)
#define HUGE_PAGE_BYTES ((uintptr_t)2 << 20)

void
y5_advise_huge_pages(void *data, int64_t bytes)
{
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (bytes >= HUGE_OUTPUT_BYTES) {
        uintptr_t begin = (uintptr_t)data;
        uintptr_t first = (begin + HUGE_PAGE_BYTES - 1) & ~(HUGE_PAGE_BYTES - 1);
        uintptr_t last = (begin + (uintptr_t)bytes) & ~(HUGE_PAGE_BYTES - 1);
        (void)madvise((char *)data + (first - begin), last - first, MADV_HUGEPAGE);
    }
#else
    (void)data;
    (void)bytes;
#endif
}
