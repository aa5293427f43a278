/* scale_img: checks shapes, cuts the padded output into bands of rows and hands them to the active
 * level. What threads need lies on the heap, since a Python thread's stack may have 64 KiB; knows
 * neither ratios nor Python. */
#include "core/huge_pages.h"
#include "core/ops.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* What the padding holds: 0.447 rounded as torch rounds a fill value. */
#define PAD_VALUE 0.447F

/* A cache line, and as much as the widest vector: what is read by vectors begins at one, since a
 * load that lies in two lines costs as much as two. */
#define LINE 64

/* Elements of a resized row worked on at a time, with taps of 20 bytes each, and two rows of 4 in
 * every thread. A multiple of every vector width. */
#define TILE_COLUMNS 2048

/* Elements a task writes, 128 KiB: enough of them to keep threads evenly busy. */
#define TASK_ELEMENTS ((int64_t)32 * 1024)

/* The two inputs an output lies between, and the second one's weight. */
typedef struct {
    int32_t first;
    int32_t second;
    float weight;
} y5_tap;

/* The two taps of a tile's columns, in the order in which they are added up, and per block of a
 * vector's width its first input. Where `windowed`, taps count from there. */
typedef struct {
    _Alignas(LINE) int32_t inputs[2][TILE_COLUMNS];
    float weights[2][TILE_COLUMNS];
    int32_t nearby[TILE_COLUMNS];
    int32_t count;
    bool windowed;
} y5_columns;

/* What all threads read: elements of the resized rows from `begin` on. */
typedef struct {
    const y5_scale_img *job;
    int64_t begin;
    int64_t input_elements;  /* of an input row */
    int64_t input_ahead;     /* bytes from an input row to the one to be fetched early */
    int64_t output_ahead;    /* and for the output */
    int64_t turned_channels; /* the first ones, whose taps are added up from the last on */
    int32_t room;          /* elements of an output row from `begin` to the next tile or the end */
    y5_columns columns[2]; /* the second: turned, for `turned_channels` */
} y5_tile;

/* What a task works with. There are as many as threads run at once. */
typedef struct {
    atomic_flag taken;
    const y5_tile *tile;
    bool turned;          /* four taps are added up from the last one on */
    const float *kept[2]; /* the input row that each of `rows` was made from */
    _Alignas(LINE) float rows[2][TILE_COLUMNS];
} y5_band;

typedef void (*column_filler)(y5_columns *columns, const y5_scale_img *job, int64_t begin,
                              int64_t end, bool turned);
typedef void (*row_scaler)(y5_band *band, int64_t first, int64_t last);

#define Y5_KERNEL_FILE "core/scale_img.inc"
#include "core/levels.h"

static const column_filler fillers[Y5_LEVEL_COUNT] = Y5_EACH_LEVEL(fill_columns);
static const row_scaler scalers[Y5_LEVEL_COUNT] = Y5_EACH_LEVEL(scale_rows);

/* Elements of a row, and of a tensor's longest side, stay within int32_t with room for a block. */
#define SIDE_LIMIT ((int64_t)1 << 30)

y5_status
y5_scale_img_check(const y5_tensor *image, y5_error *error)
{
    if (image->ndim != 4) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "%d dimensions, not 4", (int)image->ndim);
    }
    if (image->dtype != Y5_FLOAT32) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "not float32");
    }
    for (int32_t i = 1; i < 4; i++) {
        if (image->shape[i] < 1) {
            return y5_fail(error, Y5_UNSUPPORTED, "image", "no channels, rows or columns");
        }
    }
    if (image->shape[2] > SIDE_LIMIT || image->shape[3] > SIDE_LIMIT / image->shape[1]) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "more than 2^30 rows or elements of a row");
    }
    if (y5_tensor_is_contiguous(image)) {
        return Y5_OK;
    }
    if (!y5_tensor_is_channels_last(image)) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "neither contiguous nor channels last");
    }
    if (image->shape[1] > 3) { /* torch has a kernel of its own for these */
        return y5_fail(error, Y5_UNSUPPORTED, "image", "channels last with more than 3 channels");
    }
    return Y5_OK;
}

y5_status
y5_scale_img_fill(y5_scale_img *job, const y5_tensor *image, const y5_tensor *output,
                  const int64_t resized[2], int32_t variant, y5_error *error)
{
    int64_t batch = image->shape[0];
    int64_t channels = image->shape[1];
    if (output->ndim != 4 || output->dtype != image->dtype || output->shape[0] != batch ||
        output->shape[1] != channels) {
        return y5_fail(error, Y5_BAD_VALUE, "output",
                       "expected 4 dimensions and the image's dtype, batch and channels");
    }
    bool interleaved = !(y5_tensor_is_contiguous(image) && y5_tensor_is_contiguous(output));
    if (interleaved && !(y5_tensor_is_channels_last(image) && y5_tensor_is_channels_last(output))) {
        return y5_fail(error, Y5_BAD_VALUE, "output", "not in the image's order of dimensions");
    }
    *job = (y5_scale_img){
        .image = image->data,
        .output = output->data,
        .planes = interleaved ? batch : batch * channels,
        .interleaved = interleaved ? channels : 1,
        .channels = channels,
        .rows = {image->shape[2], resized[0], output->shape[2]},
        .columns = {image->shape[3], resized[1], output->shape[3]},
        .dtype = image->dtype,
        .variant = variant,
    };
    return Y5_OK;
}

/* `width` elements side by side make one of the axis. */
static bool
fits(const y5_axis *axis, int64_t width)
{
    return axis->resized <= SIDE_LIMIT / width && axis->output <= SIDE_LIMIT / width;
}

y5_status
y5_scale_img_plan(y5_scale_img *job, const y5_tensor *image, const y5_tensor *output,
                  const int64_t resized[2], int32_t variant, y5_error *error)
{
    y5_status status = y5_scale_img_fill(job, image, output, resized, variant, error);
    if (status != Y5_OK) {
        return status;
    }
    if (variant < 0 || variant >= Y5_SCALE_VARIANTS) {
        return y5_fail(error, Y5_BAD_VALUE, "variant", "got %d, allowed are 0 to %d", (int)variant,
                       Y5_SCALE_VARIANTS - 1);
    }
    if (resized[0] < 1 || resized[1] < 1) {
        return y5_fail(error, Y5_BAD_VALUE, "size", "rows and columns from 1 are allowed");
    }
    if (!fits(&job->rows, 1) || !fits(&job->columns, job->channels)) {
        return y5_fail(error, Y5_UNSUPPORTED, "image",
                       "more than 2^30 rows or elements of a row of the result");
    }
    return Y5_OK;
}

/* All memory of one resize. */
typedef struct {
    y5_tile tile;
    y5_band bands[];
} workspace;

typedef struct {
    workspace *space;
    int32_t bands;
    row_scaler scale_rows;
    int64_t rows; /* of all planes */
    int64_t rows_per_task;
} scale_work;

static void
run_task(int64_t task, void *context)
{
    const scale_work *work = context;
    int32_t own = 0; /* no more tasks run at once than there are bands, so one is free */
    while (
        atomic_flag_test_and_set_explicit(&work->space->bands[own].taken, memory_order_acquire)) {
        own = own + 1 < work->bands ? own + 1 : 0;
    }
    int64_t first = task * work->rows_per_task;
    int64_t last = first + work->rows_per_task;
    work->scale_rows(&work->space->bands[own], first, last < work->rows ? last : work->rows);
    atomic_flag_clear_explicit(&work->space->bands[own].taken, memory_order_release);
}

/* The first channels whose taps are added up from the last one on. */
static int64_t
turned_channels(const y5_scale_img *job)
{
    int32_t order = job->variant / Y5_SCALE_FOUR_TAPS;
    return order < 2 ? 0 : job->channels >> order << order;
}

/* Elements of an output row that come from the image. */
static int64_t
used_elements(const y5_scale_img *job)
{
    const y5_axis *axis = &job->columns;
    return (axis->resized < axis->output ? axis->resized : axis->output) * job->interleaved;
}

static void
scale_tile(const y5_run *run, const y5_scale_img *job, int64_t begin, workspace *space,
           int32_t bands)
{
    int64_t used = used_elements(job);
    int64_t end = begin + TILE_COLUMNS;
    bool is_last = end >= used;
    int64_t output_elements = job->columns.output * job->interleaved;
    y5_tile *tile = &space->tile;
    tile->job = job;
    tile->begin = begin;
    tile->input_elements = job->columns.input * job->interleaved;
    tile->input_ahead = 2 * tile->input_elements * (int64_t)sizeof(float);
    tile->output_ahead = output_elements * (int64_t)sizeof(float);
    tile->room = (int32_t)((is_last ? output_elements : end) - begin);
    tile->turned_channels = turned_channels(job);
    for (int32_t turned = 0; turned < (tile->turned_channels > 0 ? 2 : 1); turned++) {
        fillers[run->level](&tile->columns[turned], job, begin, is_last ? used : end, turned != 0);
    }

    int64_t rows = job->planes * job->rows.output;
    int64_t per_task = (TASK_ELEMENTS + tile->room - 1) / tile->room;
    scale_work work = {space, bands, scalers[run->level], rows, bands < 2 ? rows : per_task};
    int64_t tasks = (rows + work.rows_per_task - 1) / work.rows_per_task;
    y5_parallel_for(&run->pool, tasks, run_task, &work);
}

y5_status
y5_scale_img_run(const y5_run *run, const y5_scale_img *job, y5_error *error)
{
    int64_t elements = job->planes * job->rows.output * job->columns.output * job->interleaved;
    if (elements == 0) {
        return Y5_OK;
    }
    int32_t bands = run->pool.run == NULL || run->pool.threads < 2 ? 1 : run->pool.threads;
    workspace *space =
        aligned_alloc(LINE, sizeof(*space) + (size_t)bands * sizeof(space->bands[0]));
    if (space == NULL) {
        return y5_fail(error, Y5_NO_MEMORY, "image", "no memory for the rows of %d threads",
                       (int)bands);
    }
    for (int32_t i = 0; i < bands; i++) {
        atomic_flag_clear(&space->bands[i].taken);
        space->bands[i].tile = &space->tile;
    }
    y5_advise_huge_pages(job->output, elements * (int64_t)sizeof(float));
    for (int64_t begin = 0; begin < used_elements(job); begin += TILE_COLUMNS) {
        scale_tile(run, job, begin, space, bands);
    }
    free(space);
    return Y5_OK;
}
