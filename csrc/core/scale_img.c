/* scale_img: checks shapes, cuts the padded output into bands of rows and hands them to the active
 * level. Everything a band needs lies on its thread's stack; knows neither ratios nor Python. */
#if defined(__linux__)
#define _DEFAULT_SOURCE /* madvise */
#include <sys/mman.h>
#endif

#include "core/ops.h"

#include <math.h>
#include <string.h>

/* What the padding holds: 0.447 rounded as torch rounds a fill value. */
#define Y5_PAD_VALUE 0.447F

/* Columns of the resized image worked on at a time: their table and the two rows that are kept, 24
 * bytes a column, stay in L1. A multiple of every vector width. */
#define TILE_COLUMNS 1024

/* Elements a task writes: 256 KiB, so that the table a task makes for itself costs under 1 %. */
#define TASK_ELEMENTS ((int64_t)64 * 1024)

/* Outputs from this size on are asked to be backed by huge pages of 2 MiB: fresh memory otherwise
 * costs a page fault per 4 KiB, more than the arithmetic (benchmarks/bench_scale_img.py). */
#define HUGE_OUTPUT_BYTES ((int64_t)4 << 20)
#define HUGE_PAGE_BYTES ((uintptr_t)2 << 20)

/* The two inputs an output lies between, and the second one's weight. */
typedef struct {
    int32_t first;
    int32_t second;
    float weight;
} y5_tap;

/* The taps of a tile's columns. Where `windowed`, indices count from their block's start. */
typedef struct {
    int32_t count;
    bool windowed;
    int32_t start[TILE_COLUMNS];
    int32_t first[TILE_COLUMNS];
    int32_t second[TILE_COLUMNS];
    float left[TILE_COLUMNS];
    float right[TILE_COLUMNS];
} y5_columns;

/* What one task works with. */
typedef struct {
    const y5_scale_img *job;
    const float *kept[2]; /* the input row that each of `rows` was made from */
    float rows[2][TILE_COLUMNS];
    y5_columns columns;
} y5_band;

typedef void (*scale_kernel)(const y5_scale_img *job, int64_t begin, int64_t end, int64_t first,
                             int64_t last);

#define Y5_KERNEL_FILE "core/scale_img.inc"
#include "core/levels.h"

static const scale_kernel kernels[Y5_LEVEL_COUNT] = Y5_EACH_LEVEL(scale_band);

/* Elements of a row, and of a tensor's longest side, stay within int32_t with room for a block. */
#define SIDE_LIMIT ((int64_t)1 << 30)

/* True where memory walks row by row (`interleaved` 1), or pixel by pixel with all channels side by
 * side. Strides of dimensions of size 1 do not matter. */
static bool
is_laid_out(const y5_tensor *tensor, bool interleaved)
{
    static const int32_t order[2][4] = {{3, 2, 1, 0}, {1, 3, 2, 0}};
    int64_t expected = 1;
    for (int32_t i = 0; i < 4; i++) {
        int32_t dimension = order[interleaved][i];
        if (tensor->shape[dimension] != 1 && tensor->strides[dimension] != expected) {
            return false;
        }
        expected *= tensor->shape[dimension];
    }
    return true;
}

y5_status
y5_scale_img_check(const y5_tensor *image, y5_error *error)
{
    if (image->ndim != 4) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "%d dimensions, not 4", (int)image->ndim);
    }
    if (image->dtype != Y5_FLOAT32) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "not float32");
    }
    for (int32_t i = 1; i < 4; i++) {
        if (image->shape[i] < 1) {
            return y5_fail(error, Y5_UNSUPPORTED, "", "no channels, rows or columns");
        }
    }
    if (image->shape[2] > SIDE_LIMIT || image->shape[3] > SIDE_LIMIT / image->shape[1]) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "more than 2^30 rows or elements of a row");
    }
    if (image->numel == 0 || is_laid_out(image, false)) {
        return Y5_OK;
    }
    if (!is_laid_out(image, true)) {
        return y5_fail(error, Y5_UNSUPPORTED, "", "neither contiguous nor channels last");
    }
    if (image->shape[1] > 3) { /* torch has a kernel of its own for these */
        return y5_fail(error, Y5_UNSUPPORTED, "", "channels last with more than 3 channels");
    }
    return Y5_OK;
}

static bool
fill_axis(y5_axis *axis, int64_t input, int64_t resized, int64_t output)
{
    *axis = (y5_axis){input, resized, output, (float)input / (float)resized};
    return resized >= 1 && resized <= SIDE_LIMIT && output <= SIDE_LIMIT;
}

y5_status
y5_scale_img_plan(y5_scale_img *job, const y5_tensor *image, const y5_tensor *output,
                  const int64_t resized[2], int32_t variant, y5_error *error)
{
    int64_t channels = image->shape[1];
    if (output->ndim != 4 || output->dtype != Y5_FLOAT32 || output->shape[0] != image->shape[0] ||
        output->shape[1] != channels) {
        return y5_fail(error, Y5_BAD_VALUE, "output",
                       "expected 4 dimensions, float32 and the image's batch and channels");
    }
    bool interleaved =
        output->numel > 0 && !(is_laid_out(image, false) && is_laid_out(output, false));
    if (interleaved && !(is_laid_out(image, true) && is_laid_out(output, true))) {
        return y5_fail(error, Y5_BAD_VALUE, "output", "not in the image's order of dimensions");
    }
    if (variant < 0 || variant >= Y5_SCALE_VARIANTS) {
        return y5_fail(error, Y5_BAD_VALUE, "variant", "got %d, allowed are 0 to %d", (int)variant,
                       Y5_SCALE_VARIANTS - 1);
    }
    job->image = image->data;
    job->output = output->data;
    job->interleaved = interleaved ? channels : 1;
    job->planes = interleaved ? image->shape[0] : image->shape[0] * channels;
    job->variant = variant;
    if (!fill_axis(&job->rows, image->shape[2], resized[0], output->shape[2]) ||
        !fill_axis(&job->columns, image->shape[3], resized[1], output->shape[3]) ||
        resized[1] > SIDE_LIMIT / channels || output->shape[3] > SIDE_LIMIT / channels) {
        return y5_fail(error, Y5_BAD_VALUE, "size", "rows and columns from 1 to 2^30 are allowed");
    }
    int64_t used =
        job->columns.resized < job->columns.output ? job->columns.resized : job->columns.output;
    job->used_columns = used * job->interleaved;
    return Y5_OK;
}

/* Asks for huge pages where the output covers some. A hint: what it costs to ignore is time. */
static void
advise_huge_pages(const y5_scale_img *job, int64_t elements)
{
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    int64_t bytes = elements * (int64_t)sizeof(float);
    if (bytes >= HUGE_OUTPUT_BYTES) {
        uintptr_t begin = (uintptr_t)job->output;
        uintptr_t first = (begin + HUGE_PAGE_BYTES - 1) & ~(HUGE_PAGE_BYTES - 1);
        uintptr_t last = (begin + (uintptr_t)bytes) & ~(HUGE_PAGE_BYTES - 1);
        (void)madvise((char *)job->output + (first - begin), last - first, MADV_HUGEPAGE);
    }
#else
    (void)job;
    (void)elements;
#endif
}

typedef struct {
    const y5_scale_img *job;
    scale_kernel kernel;
    int64_t tiles;
    int64_t rows_in_all;
    int64_t rows_per_task;
} scale_work;

static void
run_task(int64_t task, void *context)
{
    const scale_work *work = context;
    int64_t columns = work->job->used_columns;
    int64_t begin = task % work->tiles * TILE_COLUMNS;
    int64_t end = columns - begin < TILE_COLUMNS ? columns : begin + TILE_COLUMNS;
    int64_t first = task / work->tiles * work->rows_per_task;
    int64_t last = first + work->rows_per_task;
    last = last < work->rows_in_all ? last : work->rows_in_all;
    work->kernel(work->job, begin, end, first, last);
}

void
y5_scale_img_run(const y5_run *run, const y5_scale_img *job)
{
    int64_t row_elements = job->columns.output * job->interleaved;
    int64_t rows = job->planes * job->rows.output;
    if (rows == 0 || row_elements == 0) {
        return;
    }
    advise_huge_pages(job, rows * row_elements);
    bool serial = run->pool.run == NULL || run->pool.threads < 2;
    int64_t tile_elements = row_elements < TILE_COLUMNS ? row_elements : TILE_COLUMNS;
    int64_t rows_per_task = (TASK_ELEMENTS + tile_elements - 1) / tile_elements;
    scale_work work = {
        .job = job,
        .kernel = kernels[run->level],
        .tiles = (job->used_columns + TILE_COLUMNS - 1) / TILE_COLUMNS,
        .rows_in_all = rows,
        .rows_per_task = serial ? rows : rows_per_task,
    };
    int64_t bands = (rows + work.rows_per_task - 1) / work.rows_per_task;
    y5_parallel_for(&run->pool, bands * work.tiles, run_task, &work);
}
