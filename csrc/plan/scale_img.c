/* From an image and the memory for the result to what the core and the CUDA library resize. */
#include "plan/scale_img.h"

/* The memory traffic that costs as much time as resizing one byte of the image and writing what it
 * becomes, for the thresholds that are stated in memory traffic. */
#define RESIZE_TRAFFIC 14

/* Elements of one image, and rows or columns, that torch's kernels count in 32 bits. */
#define COUNTED_IN_32_BITS ((int64_t)INT32_MAX)

static y5_status
check_for_gpu(const y5_tensor *image, y5_error *error)
{
    if (image->ndim != 4) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "%d dimensions, not 4", (int)image->ndim);
    }
    if (image->dtype != Y5_FLOAT32 && image->dtype != Y5_FLOAT16 && image->dtype != Y5_BFLOAT16) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "not float32, float16 or bfloat16");
    }
    if (image->numel == 0) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "no elements");
    }
    if (image->numel > COUNTED_IN_32_BITS) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "2^31 elements or more");
    }
    if (image->shape[1] > Y5_CUDA_SCALE_SIDE_LIMIT || image->shape[2] > Y5_CUDA_SCALE_SIDE_LIMIT ||
        image->shape[3] > Y5_CUDA_SCALE_SIDE_LIMIT) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "more than 2^22 channels, rows or columns");
    }
    if (!y5_tensor_is_contiguous(image) && !y5_tensor_is_channels_last(image)) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "neither contiguous nor channels last");
    }
    return Y5_OK;
}

static y5_status
take(void *data, int64_t index, const y5_tensor *tensor, y5_error *error)
{
    y5_scale_plan *self = data;
    if (index > 0) {
        self->output = *tensor;
        return Y5_OK;
    }
    self->image = *tensor;
    return tensor->device == Y5_CUDA ? check_for_gpu(tensor, error)
                                     : y5_scale_img_check(tensor, error);
}

static y5_status
check(void *data, y5_overlap overlap, y5_demand *demand, y5_error *error)
{
    y5_scale_plan *self = data;
    demand->bytes = self->image.numel * (int64_t)sizeof(float) * RESIZE_TRAFFIC;
    demand->torch_bytes =
        self->writes ? demand->bytes + self->output.numel * (int64_t)sizeof(float) : 0;
    if (overlap != Y5_APART) {
        return y5_fail(error, Y5_BAD_VALUE, "output", "shares memory with the image");
    }
    return self->writes && self->image.device == Y5_CPU
               ? y5_scale_img_plan(&self->job, &self->image, &self->output, self->size,
                                   self->variant, error)
               : Y5_OK;
}

static y5_status
run(void *data, const y5_run *how, bool as_torch, y5_error *error)
{
    (void)as_torch;
    const y5_scale_plan *self = data;
    return y5_scale_img_run(how, &self->job, error);
}

static y5_status
launch(void *data, const y5_gpu *gpu, y5_error *error)
{
    const y5_scale_plan *self = data;
    const y5_tensor *image = &self->image;
    const y5_tensor *output = &self->output;
    y5_scale_img job;
    y5_status status = y5_scale_img_fill(&job, image, output, self->size, self->variant, error);
    if (status != Y5_OK) {
        return status;
    }
    if (self->variant < 0 || self->variant >= Y5_CUDA_SCALE_VARIANTS) {
        return y5_fail(error, Y5_BAD_VALUE, "variant", "allowed on a GPU are 0 to %d",
                       Y5_CUDA_SCALE_VARIANTS - 1);
    }
    for (int32_t i = 0; i < 2; i++) {
        if (self->size[i] < 1) {
            return y5_fail(error, Y5_BAD_VALUE, "size", "rows and columns from 1 are allowed");
        }
        if (self->size[i] > Y5_CUDA_SCALE_SIDE_LIMIT ||
            output->shape[2 + i] > Y5_CUDA_SCALE_SIDE_LIMIT) {
            return y5_fail(error, Y5_UNSUPPORTED, "image",
                           "more than 2^22 rows or columns of the result");
        }
    }
    if (output->numel > COUNTED_IN_32_BITS) {
        return y5_fail(error, Y5_UNSUPPORTED, "image", "2^31 elements of the result or more");
    }
    y5_cuda_error told = {0};
    return y5_cuda_status_of(gpu->api->scale_img(&gpu->where, &job, &told), &told, error);
}

y5_plan
y5_scale_plan_steps(y5_scale_plan *self)
{
    return (y5_plan){.data = self,
                     .groups = UINT32_MAX,
                     .take = take,
                     .check = check,
                     .run = self->writes ? run : NULL,
                     .launch = self->writes ? launch : NULL};
}
