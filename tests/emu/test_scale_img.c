/* scale_img, emulated: against the core's kernels where they round alike, and all variants against
 * a scalar oracle. */
#include "test_emu.h"

#include <math.h>
#include <string.h>

/* Ways of the variants in which the core has a twin. */
#define NOTHING_FUSED 0
#define FUSED_BLENDS 26 /* 2 * (1 + 3 * (1 + 3 * 1)) */

static array
image_of(int64_t numel, y5_dtype dtype)
{
    array made = array_of(numel, dtype);
    for (int64_t i = 0; i < numel; i++) {
        set_element(made.data, i, dtype, (double)random_between(0, 1 << 24) * 0x1p-24);
    }
    return made;
}

static float
blend(float a, float x, float b, float y, int32_t way)
{
    float left = a * x;
    float right = b * y;
    return way == 1 ? fmaf(a, x, right) : way == 2 ? fmaf(b, y, left) : left + right;
}

static int64_t
place(int64_t input, int64_t resized, int64_t index, bool fused, float *weight)
{
    float scale = (float)input / (float)resized;
    float centre = (float)index + 0.5F;
    float product = scale * centre;
    float at = fused ? fmaf(scale, centre, -0.5F) : product - 0.5F;
    at = at < 0.0F ? 0.0F : at;
    *weight = at - (float)(int64_t)at;
    return (int64_t)at;
}

/* One element of the result as torch's kernel writes it. */
static double
expected_element(const y5_cuda_scale_img *job, int64_t plane, int64_t row, int64_t element)
{
    y5_dtype dtype = (y5_dtype)job->dtype;
    int64_t column = element / job->interleaved;
    if (row >= job->resized_rows || column >= job->resized_columns) {
        return round_to((double)0.447F, dtype);
    }
    float m;
    float x;
    bool fused = job->variant % 2 != 0;
    int64_t top = place(job->input_rows, job->resized_rows, row, fused, &m);
    int64_t left = place(job->input_columns, job->resized_columns, column, fused, &x);
    int64_t bottom = top + (top < job->input_rows - 1);
    int64_t right = left + (left < job->input_columns - 1);
    float taps[4];
    for (int i = 0; i < 4; i++) {
        int64_t pixel = (plane * job->input_rows + (i < 2 ? top : bottom)) * job->input_columns +
                        (i % 2 == 0 ? left : right);
        int64_t at = pixel * job->interleaved + element % job->interleaved;
        taps[i] = (float)get_element(job->image, at, dtype);
    }
    int32_t ways = job->variant / 2;
    float above = blend(1.0F - x, taps[0], x, taps[1], ways % 3);
    float below = blend(1.0F - x, taps[2], x, taps[3], ways / 3 % 3);
    return round_to((double)blend(1.0F - m, above, m, below, ways / 9), dtype);
}

static void
check_against_oracle(const y5_cuda_scale_img *job)
{
    y5_dtype dtype = (y5_dtype)job->dtype;
    int64_t row_elements = job->output_columns * job->interleaved;
    for (int64_t i = 0; i < job->planes * job->output_rows * row_elements; i++) {
        int64_t rows = i / row_elements;
        double wanted = expected_element(job, rows / job->output_rows, rows % job->output_rows,
                                         i % row_elements);
        double got = get_element(job->output, i, dtype);
        CHECK(got == wanted, "variant %d, dtype %d, element %d: %a, not %a", job->variant, dtype,
              (int)i, got, wanted);
    }
}

/* The same resize by the core, where it has the variant. */
static void
check_against_core(const y5_cuda_scale_img *job, int64_t batch, int64_t channels)
{
    int32_t ways = job->variant / 2 * 2;
    if (job->dtype != Y5_CUDA_FLOAT32 || (ways != NOTHING_FUSED && ways != FUSED_BLENDS) ||
        channels > 3) {
        return;
    }
    bool last = job->interleaved > 1;
    int64_t numel = batch * channels * job->output_rows * job->output_columns;
    array expected = array_of(numel, Y5_FLOAT32);
    y5_tensor image = {(void *)(uintptr_t)job->image,
                       batch * channels * job->input_rows * job->input_columns,
                       Y5_FLOAT32,
                       Y5_CPU,
                       0,
                       4,
                       {batch, channels, job->input_rows, job->input_columns},
                       {0}};
    y5_tensor output = image;
    output.data = expected.data;
    output.numel = numel;
    output.shape[2] = job->output_rows;
    output.shape[3] = job->output_columns;
    y5_tensor *both[2] = {&image, &output};
    for (int i = 0; i < 2; i++) {
        int64_t rows = both[i]->shape[2];
        int64_t columns = both[i]->shape[3];
        int64_t strides[2][4] = {{channels * rows * columns, rows * columns, columns, 1},
                                 {channels * rows * columns, 1, columns * channels, channels}};
        memcpy(both[i]->strides, strides[last], sizeof(strides[last]));
    }
    int32_t variant = (job->variant % 2 ? Y5_SCALE_FUSED_INDEX : 0) |
                      (ways == FUSED_BLENDS ? Y5_SCALE_FUSED_BLEND : 0);
    int64_t resized[2] = {job->resized_rows, job->resized_columns};
    y5_scale_img plan;
    y5_error error;
    CHECK(y5_scale_img_plan(&plan, &image, &output, resized, variant, &error) == Y5_OK, "%s",
          error.message);
    CHECK(y5_scale_img_run(&core, &plan, &error) == Y5_OK, "%s", error.message);
    check_same(job->output, expected.data, numel, Y5_FLOAT32, "scale_img");
    free(expected.block);
}

static void
trial(int32_t variant)
{
    static const y5_dtype dtypes[] = {Y5_FLOAT32, Y5_FLOAT32, Y5_FLOAT16, Y5_BFLOAT16};
    y5_dtype dtype = dtypes[random_between(0, 3)];
    int64_t batch = random_between(1, 3);
    int64_t channels = random_between(1, 6);
    bool last = channels > 1 && random_between(0, 1);
    y5_cuda_scale_img job = {
        .planes = last ? batch : batch * channels,
        .interleaved = last ? channels : 1,
        .input_rows = random_between(1, 30),
        .input_columns = random_between(1, 50),
        .resized_rows = random_between(1, 40),
        .resized_columns = random_between(1, 60),
        .dtype = dtype,
        .variant = variant,
    };
    if (random_between(0, 3) == 0) { /* one axis or both keep their size */
        job.resized_rows = job.input_rows;
        job.resized_columns = random_between(0, 1) ? job.input_columns : job.resized_columns;
    }
    job.output_rows =
        random_between(0, 1) ? (job.resized_rows + 31) / 32 * 32 : random_between(1, 40);
    job.output_columns = random_between(0, 1) ? job.resized_columns : random_between(1, 70);
    int64_t images = batch * channels;
    array image = image_of(images * job.input_rows * job.input_columns, dtype);
    array output = array_of(images * job.output_rows * job.output_columns, dtype);
    job.image = image.data;
    job.output = output.data;
    shake_machine();
    y5_cuda_error error;
    expect_ok(api->scale_img(&here, &job, &error), &error, "scale_img");
    CHECK(y5_emulated()->launches == 1, "%d", (int)y5_emulated()->launches);
    check_against_oracle(&job);
    check_against_core(&job, batch, channels);
    free(image.block);
    free(output.block);
}

void
test_scale_img(void)
{
    for (int32_t variant = 0; variant < Y5_CUDA_SCALE_VARIANTS; variant++) {
        trial(variant);
        trial(variant);
    }
    for (int i = 0; i < 60; i++) { /* those that the core has */
        trial((i % 2 ? NOTHING_FUSED : FUSED_BLENDS) + i / 2 % 2);
    }
}
