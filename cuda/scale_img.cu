/* Resize and padding of images: checks the job, sizes the grid, launches. Knows nothing of torch's
 * choice of a variant. */
#include "scale_img.cuh"

#include "launch.cuh"
#include "operations.h"

namespace y5 {

static bool
is_axis(const y5_axis &axis)
{
    constexpr int64_t limit = Y5_CUDA_SCALE_SIDE_LIMIT;
    return axis.input >= 1 && axis.input <= limit && axis.resized >= 1 && axis.resized <= limit &&
           axis.output >= 0 && axis.output <= limit;
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
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "dtype %d, allowed are 0, 2 and 3",
                    (int)job->dtype);
    }
    if (job->variant < 0 || job->variant >= Y5_CUDA_SCALE_VARIANTS) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "variant %d, allowed are 0 to %d",
                    (int)job->variant, Y5_CUDA_SCALE_VARIANTS - 1);
    }
    if (!is_axis(job->rows) || !is_axis(job->columns)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "rows and columns from 1 to %lld are allowed",
                    (long long)Y5_CUDA_SCALE_SIDE_LIMIT);
    }
    if (job->planes < 0 || job->planes > numel_limit || job->interleaved < 1 ||
        job->interleaved > Y5_CUDA_SCALE_SIDE_LIMIT) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "%lld planes of %lld channels",
                    (long long)job->planes, (long long)job->interleaved);
    }
    size_t bytes = y5_dtype_bytes(job->dtype);
    if ((!is_empty(job) && (job->image == NULL || job->output == NULL)) ||
        !is_aligned(job->image, bytes) || !is_aligned(job->output, bytes)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT,
                    "image or output: a null pointer, or one not aligned to its elements");
    }
    return Y5_CUDA_OK;
}

static float
scale_of(const y5_axis &axis)
{
    return (float)axis.input / (float)axis.resized;
}

y5_cuda_status
scale_img(const y5_cuda_where *where, const y5_scale_img *job, y5_cuda_error *error)
{
    y5_cuda_status status = check_job(job, error);
    if (status != Y5_CUDA_OK || is_empty(job)) {
        return status;
    }
    device_guard guard;
    status = guard.enter(where, error);
    if (status != Y5_CUDA_OK) {
        return status;
    }
    struct grid size =
        grid_for_planes(job->columns.output * job->interleaved, job->rows.output, job->planes,
                        scale_row_threads, scale_rows, scale_planes, guard.multiprocessors());
    scale_job work;
    work.image = *job;
    work.plane_groups = size.z;
    work.row_scale = scale_of(job->rows);
    work.column_scale = scale_of(job->columns);
    work.fused_index = job->variant % 2 != 0;
    work.copied =
        job->rows.input == job->rows.resized && job->columns.input == job->columns.resized;
    work.above_blend = job->variant / 2 % 3;
    work.below_blend = job->variant / 6 % 3;
    work.row_blend = job->variant / 18;
    dim3 grid((unsigned int)size.x, (unsigned int)size.y, (unsigned int)size.z);
    switch (job->dtype) {
    case Y5_FLOAT16:
        return launch<scale_img_kernel<half_bits>>(where, "scale_img", grid, error, work);
    case Y5_BFLOAT16:
        return launch<scale_img_kernel<bfloat16_bits>>(where, "scale_img", grid, error, work);
    default:
        return launch<scale_img_kernel<float>>(where, "scale_img", grid, error, work);
    }
}

} // namespace y5
