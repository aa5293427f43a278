/* Resize and padding of images: checks the job, sizes the grid, launches. Knows nothing of torch's
 * choice of a variant. */
#include "operations.h"

static bool
is_axis(const y5_axis *axis)
{
    const int64_t limit = Y5_CUDA_SCALE_SIDE_LIMIT;
    return axis->input >= 1 && axis->input <= limit && axis->resized >= 1 &&
           axis->resized <= limit && axis->output >= 0 && axis->output <= limit;
}

/* There is nothing to write. */
static bool
is_empty(const y5_scale_img *job)
{
    return job->planes == 0 || job->rows.output == 0 || job->columns.output == 0;
}

static y5_cuda_status
check_job(const y5_scale_img *job, y5_cuda_error *error)
{
    if (job->dtype != Y5_FLOAT32 && job->dtype != Y5_FLOAT16 && job->dtype != Y5_BFLOAT16) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT, "dtype %d, allowed are 0, 2 and 3",
                            (int)job->dtype);
    }
    if (job->variant < 0 || job->variant >= Y5_CUDA_SCALE_VARIANTS) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT, "variant %d, allowed are 0 to %d",
                            (int)job->variant, Y5_CUDA_SCALE_VARIANTS - 1);
    }
    if (!is_axis(&job->rows) || !is_axis(&job->columns)) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT,
                            "rows and columns from 1 to %lld are allowed",
                            (long long)Y5_CUDA_SCALE_SIDE_LIMIT);
    }
    if (job->planes < 0 || job->planes > Y5_NUMEL_LIMIT || job->interleaved < 1 ||
        job->interleaved > Y5_CUDA_SCALE_SIDE_LIMIT) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT, "%lld planes of %lld channels",
                            (long long)job->planes, (long long)job->interleaved);
    }
    size_t bytes = y5_dtype_bytes(job->dtype);
    if ((!is_empty(job) && (job->image == NULL || job->output == NULL)) ||
        !is_aligned(job->image, bytes) || !is_aligned(job->output, bytes)) {
        return y5_cuda_fail(error, Y5_CUDA_BAD_ARGUMENT,
                            "image or output: a null pointer, or one not aligned to its elements");
    }
    return Y5_CUDA_OK;
}

static float
scale_of(const y5_axis *axis)
{
    return (float)axis->input / (float)axis->resized;
}

static int
kernel_for(y5_dtype dtype)
{
    switch (dtype) {
    case Y5_FLOAT16:
        return KERNEL_scale_img_float16;
    case Y5_BFLOAT16:
        return KERNEL_scale_img_bfloat16;
    default:
        return KERNEL_scale_img_float32;
    }
}

y5_cuda_status
y5_cuda_scale_img(const y5_cuda_where *where, const y5_scale_img *job, y5_cuda_error *error)
{
    y5_cuda_call call;
    y5_cuda_status status = check_job(job, error);
    if (status != Y5_CUDA_OK || is_empty(job)) {
        return status;
    }
    status = y5_cuda_enter(&call, where, error);
    if (status != Y5_CUDA_OK) {
        return status;
    }
    int kernel = kernel_for(job->dtype);
    y5_grid grid = y5_grid_for_planes(job->columns.output * job->interleaved, job->rows.output,
                                      job->planes, scale_row_threads, scale_rows, scale_planes,
                                      call.device->resident[kernel]);
    scale_job work = {
        .image = *job,
        .plane_groups = grid.z,
        .row_scale = scale_of(&job->rows),
        .column_scale = scale_of(&job->columns),
        .fused_index = job->variant % 2 != 0,
        .copied =
            job->rows.input == job->rows.resized && job->columns.input == job->columns.resized,
        .above_blend = job->variant / 2 % 3,
        .below_blend = job->variant / 6 % 3,
        .row_blend = job->variant / 18,
    };
    void *arguments[] = {&work};
    return y5_cuda_leave(y5_cuda_launch(&call, kernel, "scale_img", grid, arguments));
}
