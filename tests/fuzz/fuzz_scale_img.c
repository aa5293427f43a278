/* scale_img's checks on sizes of any magnitude, and its kernels on images of any shape and bits
 * against the formula, output by output. */
#include "core/ops.h"
#include "fuzz.h"
#include "resize_oracle.h"

#include <string.h>

/* As python/tensor.c lets tensors through. */
#define MOST_ELEMENTS (INT64_MAX / 32)

/* A tensor that is no image, or one of any size, perhaps with batch and channels of another; false
 * where no tensor can be so large. */
static bool
take_tensor(input *from, y5_tensor *tensor, const y5_tensor *like)
{
    static const int8_t orders[][4] = {{3, 2, 1, 0}, {1, 3, 2, 0}, {3, 1, 2, 0}};
    const int8_t *order = orders[take_between(from, 0, 2)];
    int64_t rest = MOST_ELEMENTS;
    bool empty = false;
    *tensor = (y5_tensor){.ndim = take_bits(from, 1) % 16 == 0 ? 3 : 4, .numel = 1};
    tensor->dtype = take_bits(from, 1) % 16 == 0 ? Y5_FLOAT16 : Y5_FLOAT32;
    for (int32_t i = 0; i < 4; i++) {
        int64_t drawn = take_size(from) & INT64_MAX;
        tensor->shape[i] = i < 2 && like != NULL ? like->shape[i] : drawn;
        empty = empty || tensor->shape[i] == 0;
        rest = tensor->shape[i] > 0 ? rest / tensor->shape[i] : rest;
        tensor->numel = rest > 0 ? tensor->numel * tensor->shape[i] : 0;
    }
    tensor->numel = empty ? 0 : tensor->numel;
    for (int64_t i = 0, stride = 1; i < 4 && tensor->numel > 0; i++) {
        tensor->strides[order[i]] = stride;
        stride *= tensor->shape[order[i]];
    }
    return empty || rest > 0;
}

static void
check_sizes(input *from)
{
    y5_tensor image;
    y5_tensor output;
    y5_error error = {0};
    y5_scale_img job;
    int64_t resized[2] = {take_size(from), take_size(from)};
    int32_t variant = (int32_t)take_between(from, 0, 255) - 100;
    if (!take_tensor(from, &image, NULL) ||
        !take_tensor(from, &output, take_bits(from, 1) % 4 ? &image : NULL) ||
        y5_scale_img_check(&image, &error) != Y5_OK ||
        y5_scale_img_plan(&job, &image, &output, resized, variant, &error) != Y5_OK) {
        return;
    }
    const int64_t side = (int64_t)1 << 30;
    CHECK(variant >= 0 && variant < Y5_SCALE_VARIANTS, "variant %d", (int)variant);
    CHECK(resized[0] >= 1 && resized[0] <= side && resized[1] >= 1, "rows or columns");
    CHECK(resized[1] * job.channels <= side && job.columns.output * job.channels <= side, "width");
    CHECK(output.numel == 0 ||
              job.planes * job.rows.output * job.columns.output * job.interleaved == output.numel,
          "elements");
}

static void
take_image(input *from, image_case *image)
{
    static const int64_t pixels[4] = {150, 500, 1500, 5000};
    image->batch = take_between(from, 0, 3);
    image->interleaved = take_between(from, 0, 2) == 0;
    image->channels = take_between(from, 1, image->interleaved ? 3 : 40);
    image->variant = (int32_t)take_between(from, 0, Y5_SCALE_VARIANTS - 1);
    int64_t planes = image->channels * (image->batch > 0 ? image->batch : 1);
    int64_t room = 1 + take_most(from, pixels) / planes;
    int64_t padding[2] = {4, planes > 8 ? 4 : 64};
    for (int32_t i = 0; i < 2; i++) {
        int64_t longest = i == 0 ? 1 + room / 16 : room / (image->input[0] + 1) + 1;
        image->input[i] = take_between(from, 1, longest);
        image->resized[i] =
            take_bits(from, 1) % 8 == 0 ? image->input[i] : take_between(from, 1, 2 * longest);
        int64_t output = image->resized[i] + take_between(from, -8, padding[i]);
        image->output[i] = output < 0 ? 0 : output;
    }
}

/* Any bits: what is left of the input, again and again, and with it numbers of usual sizes. */
static float *
fill_image(input *from, int64_t numel)
{
    float *in = allocate(numel * (int64_t)sizeof(float));
    for (int64_t i = 0; i < numel; i++) {
        uint32_t bits = (uint32_t)mixed((uint64_t)i) % 0x02000000U + 0x3e800000U;
        if (from->left >= 4 && i % 3 == 0) {
            memcpy(&bits, from->data + (size_t)i % (from->left - 3), sizeof(bits));
        }
        memcpy(&in[i], &bits, sizeof(bits));
    }
    return in;
}

static void
check_image(input *from)
{
    image_case image = {0};
    take_image(from, &image);
    y5_run run = {take_level(from), {pool_in_turn, (int32_t)take_between(from, 1, 3)}};
    int64_t planes = image.batch * image.channels;
    int64_t outputs = planes * image.output[0] * image.output[1];
    float *out = allocate(outputs * (int64_t)sizeof(float));
    float *in = fill_image(from, planes * image.input[0] * image.input[1]);
    y5_tensor input = image_tensor(&image, image.input, in);
    y5_tensor output = image_tensor(&image, image.output, out);
    y5_error error = {0};
    y5_scale_img job;
    y5_status status = y5_scale_img_check(&input, &error);
    CHECK(status == Y5_OK, "%s", error.message);
    status = y5_scale_img_plan(&job, &input, &output, image.resized, image.variant, &error);
    CHECK(status == Y5_OK, "%s", error.message);
    CHECK(y5_scale_img_run(&run, &job, &error) == Y5_OK, "%s", error.message);
    check_resized(&image, &input, &output);
    free_all();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input from = {data, size};
    if (take_bits(&from, 1) % 4 == 0) {
        check_sizes(&from);
    } else {
        check_image(&from);
    }
    return 0;
}
