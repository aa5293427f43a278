/* core/scale_img.c at one level against the formula, output by output: every variant, both orders
 * in memory, padding and cropping, rows wider than a tile, several threads; and what it refuses. */
#include "core/ops.h"
#include "resize_oracle.h"
#include "support.h"
#include "test_core.h"

static void
check_image(y5_level level, const image_case *image, int32_t threads)
{
    int64_t planes = image->batch * image->channels;
    int64_t in_bytes = planes * image->input[0] * image->input[1] * (int64_t)sizeof(float);
    int64_t out_numel = planes * image->output[0] * image->output[1];
    float *in = allocate(in_bytes);
    float *out = allocate(out_numel * (int64_t)sizeof(float));
    fill(in, in_bytes / (int64_t)sizeof(float), Y5_FLOAT32);
    y5_tensor input = image_tensor(image, image->input, in);
    y5_tensor output = image_tensor(image, image->output, out);
    y5_error error = {0};
    y5_scale_img job;
    CHECK(y5_scale_img_check(&input, &error) == Y5_OK, "%s", error.message);
    CHECK(y5_scale_img_plan(&job, &input, &output, image->resized, image->variant, &error) == Y5_OK,
          "%s", error.message);
    pool_set_threads(threads);
    y5_run run = {level, {threads > 1 ? pool_run : NULL, threads}};
    CHECK(y5_scale_img_run(&run, &job, &error) == Y5_OK, "%s", error.message);
    check_resized(image, &input, &output);
    free_all();
}

static void
check_random(y5_level level)
{
    for (int32_t round = 0; round < (brief ? 80 : 1200); round++) {
        image_case image = {.batch = random_between(0, 9) == 0 ? 0 : random_between(1, 2)};
        image.interleaved = round % 3 == 2;
        image.channels = random_between(1, image.interleaved ? 3 : round % 4 ? 5 : 37);
        image.variant = round % Y5_SCALE_VARIANTS;
        int64_t longest = round % 4 == 0 ? 25 : round % 9 ? 40 : 150;
        for (int32_t i = 0; i < 2; i++) {
            image.input[i] = random_between(1, longest);
            image.resized[i] = random_between(1, image.input[i] * 2 + 3);
            if (random_between(0, 9) == 0) {
                image.resized[i] = image.input[i];
            }
            int64_t output = image.resized[i] + random_between(-5, 33);
            image.output[i] = output < 0 ? 0 : output;
        }
        check_image(level, &image, (int32_t)random_between(1, 4));
    }
}

/* Around the 2048 elements that are worked on at a time. */
static void
check_wide(y5_level level)
{
    static const int64_t widths[] = {2047, 2048, 2049, 4096, 4100};
    int32_t count = brief ? 3 : (int32_t)(sizeof(widths) / sizeof(widths[0]));
    for (int32_t i = 0; i < count; i++) {
        for (int32_t variant = brief ? 6 : 0; variant < 2 * Y5_SCALE_FOUR_TAPS; variant++) {
            for (int32_t channels = 1; channels <= 3; channels += 2) {
                image_case image = {1, channels, {5, 0}, {3, 0}, {4, 0}, channels > 1, variant};
                image.resized[1] = (widths[i] + channels - 1) / channels;
                image.input[1] = image.resized[1] * 4 / 5;
                image.output[1] = image.resized[1] + (variant % 3 - 1) * 9;
                check_image(level, &image, 1 + variant % 3);
            }
        }
    }
}

/* 4 MiB, from which on huge pages are asked for; most of it is padding. */
static void
check_large(y5_level level)
{
    image_case image = {1, 1, {40, 50}, {30, 60}, {1024, 1024}, false, 0};
    check_image(level, &image, 4);
}

static void
check_refusals(void)
{
    image_case image = {2, 3, {8, 9}, {6, 7}, {32, 32}, false, 0};
    y5_error error = {0};
    float memory = 0;
    y5_tensor good = image_tensor(&image, image.input, &memory);
    y5_tensor output = image_tensor(&image, image.output, &memory);
    y5_tensor bad[7] = {good, good, good, good, good, good, good};
    bad[0].ndim = 3;
    bad[1].dtype = Y5_FLOAT16;
    bad[2].shape[1] = 0;
    bad[3].shape[3] = ((int64_t)1 << 30) + 1;
    bad[4].strides[3] = 2;
    bad[5].shape[2] = ((int64_t)1 << 30) + 1;
    image.interleaved = true;
    image.channels = 4;
    bad[6] = image_tensor(&image, image.input, &memory);
    for (int32_t i = 0; i < 7; i++) {
        CHECK(y5_scale_img_check(&bad[i], &error) == Y5_UNSUPPORTED, "tensor %d", i);
    }
    y5_scale_img job;
    const int64_t most = (int64_t)1 << 30;
    const int64_t sizes[][2] = {{0, 7}, {6, 0}, {-1, 7}, {most + 1, 7}, {7, most / 3 + 1}};
    for (int32_t i = 0; i < 5; i++) {
        y5_status expected = i < 3 ? Y5_BAD_VALUE : Y5_UNSUPPORTED;
        CHECK(y5_scale_img_plan(&job, &good, &output, sizes[i], 0, &error) == expected, "size %d",
              i);
    }
    for (int32_t variant = -1; variant <= Y5_SCALE_VARIANTS; variant += Y5_SCALE_VARIANTS + 1) {
        CHECK(y5_scale_img_plan(&job, &good, &output, image.resized, variant, &error) ==
                  Y5_BAD_VALUE,
              "variant %d", variant);
    }
    y5_tensor other[5] = {output, output, output, output, output};
    other[0].shape[0] = 1;
    other[1].dtype = Y5_FLOAT64;
    image.channels = 3;
    other[2] = image_tensor(&image, image.output, &memory); /* another order in memory */
    other[3].ndim = 3;
    other[4].shape[1] = 4;
    for (int32_t i = 0; i < 5; i++) {
        CHECK(y5_scale_img_plan(&job, &good, &other[i], image.resized, 0, &error) == Y5_BAD_VALUE,
              "output %d", i);
    }
    CHECK(y5_scale_img_plan(&job, &bad[4], &other[2], image.resized, 0, &error) == Y5_BAD_VALUE,
          "an image with gaps");
    image.interleaved = false;
    for (int32_t i = 0; i < 2; i++) {
        image_case vast = image;
        vast.output[i] = most + 1;
        y5_tensor result = image_tensor(&vast, vast.output, &memory);
        CHECK(y5_scale_img_plan(&job, &good, &result, image.resized, 0, &error) == Y5_UNSUPPORTED,
              "axis %d of the output", i);
    }
}

void
test_scale_img(y5_level level)
{
    check_random(level);
    check_wide(level);
    check_large(level);
    check_refusals();
}
