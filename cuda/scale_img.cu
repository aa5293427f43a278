/* Resize and padding of images: checks the job, sizes the grid, launches. Knows nothing of torch's
 * choice of a variant. */
#include "scale_img.cuh"

#include "launch.cuh"
#include "operations.h"

namespace y5 {

static bool
is_side(int64_t size, int64_t smallest)
{
    return size >= smallest && size <= Y5_CUDA_SCALE_SIDE_LIMIT;
}

static y5_cuda_status
check_job(const y5_cuda_scale_img *job, y5_cuda_error *error)
{
    if (job->dtype != Y5_CUDA_FLOAT32 && job->dtype != Y5_CUDA_FLOAT16 &&
        job->dtype != Y5_CUDA_BFLOAT16) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "dtype %d, allowed are 0, 2 and 3",
                    (int)job->dtype);
    }
    if (job->variant < 0 || job->variant >= Y5_CUDA_SCALE_VARIANTS) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "variant %d, allowed are 0 to %d",
                    (int)job->variant, Y5_CUDA_SCALE_VARIANTS - 1);
    }
    if (!is_side(job->input_rows, 1) || !is_side(job->input_columns, 1) ||
        !is_side(job->resized_rows, 1) || !is_side(job->resized_columns, 1) ||
        !is_side(job->output_rows, 0) || !is_side(job->output_columns, 0)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "rows and columns from 1 to %lld are allowed",
                    (long long)Y5_CUDA_SCALE_SIDE_LIMIT);
    }
    if (job->planes < 0 || job->planes > numel_limit || job->interleaved < 1 ||
        job->interleaved > Y5_CUDA_SCALE_SIDE_LIMIT) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT, "%lld planes of %lld channels",
                    (long long)job->planes, (long long)job->interleaved);
    }
    size_t bytes = floating_bytes(job->dtype);
    bool empty = job->planes == 0 || job->output_rows == 0 || job->output_columns == 0;
    if ((!empty && (job->image == NULL || job->output == NULL)) || !is_aligned(job->image, bytes) ||
        !is_aligned(job->output, bytes)) {
        return fail(error, Y5_CUDA_BAD_ARGUMENT,
                    "image or output: a null pointer, or one not aligned to its elements");
    }
    return Y5_CUDA_OK;
}

static scale_axis
axis_of(int64_t input, int64_t resized, int64_t output)
{
    return {input, resized, output, (float)input / (float)resized};
}

y5_cuda_status
scale_img(const y5_cuda_where *where, const y5_cuda_scale_img *job, y5_cuda_error *error)
{
    y5_cuda_status status = check_job(job, error);
    if (status != Y5_CUDA_OK || job->planes == 0 || job->output_rows == 0 ||
        job->output_columns == 0) {
        return status;
    }
    device_guard guard;
    status = guard.enter(where, error);
    if (status != Y5_CUDA_OK) {
        return status;
    }
    struct grid size =
        grid_for_planes(job->output_columns * job->interleaved, job->output_rows, job->planes,
                        scale_row_threads, scale_rows, scale_planes, guard.multiprocessors());
    scale_job work;
    work.image = job->image;
    work.output = job->output;
    work.planes = job->planes;
    work.interleaved = job->interleaved;
    work.plane_groups = size.z;
    work.rows = axis_of(job->input_rows, job->resized_rows, job->output_rows);
    work.columns = axis_of(job->input_columns, job->resized_columns, job->output_columns);
    work.fused_index = job->variant % 2 != 0;
    work.copied =
        job->input_rows == job->resized_rows && job->input_columns == job->resized_columns;
    work.above_blend = job->variant / 2 % 3;
    work.below_blend = job->variant / 6 % 3;
    work.row_blend = job->variant / 18;
    dim3 grid((unsigned int)size.x, (unsigned int)size.y, (unsigned int)size.z);
    switch (job->dtype) {
    case Y5_CUDA_FLOAT16:
        return launch<scale_img_kernel<half_bits>>(where, "scale_img", grid, error, work);
    case Y5_CUDA_BFLOAT16:
        return launch<scale_img_kernel<bfloat16_bits>>(where, "scale_img", grid, error, work);
    default:
        return launch<scale_img_kernel<float>>(where, "scale_img", grid, error, work);
    }
}

} // namespace y5
