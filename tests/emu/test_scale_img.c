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
expected_element(const y5_scale_img *job, int64_t plane, int64_t row, int64_t element)
{
    y5_dtype dtype = job->dtype;
    int64_t column = element / job->interleaved;
    if (row >= job->rows.resized || column >= job->columns.resized) {
        return round_to((double)0.447F, dtype);
    }
    float m;
    float x;
    bool fused = job->variant % 2 != 0;
    int64_t top = place(job->rows.input, job->rows.resized, row, fused, &m);
    int64_t left = place(job->columns.input, job->columns.resized, column, fused, &x);
    int64_t bottom = top + (top < job->rows.input - 1);
    int64_t right = left + (left < job->columns.input - 1);
    float taps[4];
    for (int i = 0; i < 4; i++) {
        int64_t pixel = (plane * job->rows.input + (i < 2 ? top : bottom)) * job->columns.input +
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
check_against_oracle(const y5_scale_img *job)
{
    y5_dtype dtype = job->dtype;
    int64_t row_elements = job->columns.output * job->interleaved;
    for (int64_t i = 0; i < job->planes * job->rows.output * row_elements; i++) {
        int64_t rows = i / row_elements;
        double wanted = expected_element(job, rows / job->rows.output, rows % job->rows.output,
                                         i % row_elements);
        double got = get_element(job->output, i, dtype);
        CHECK(got == wanted, "variant %d, dtype %d, element %d: %a, not %a", job->variant, dtype,
              (int)i, got, wanted);
    }
}

/* The same resize by the core, where it has the variant. */
static void
check_against_core(const y5_scale_img *job)
{
    int32_t ways = job->variant / 2 * 2;
    if (job->dtype != Y5_FLOAT32 || (ways != NOTHING_FUSED && ways != FUSED_BLENDS) ||
        job->channels > 3) {
        return;
    }
    int64_t numel = job->planes * job->interleaved * job->rows.output * job->columns.output;
    array expected = array_of(numel, Y5_FLOAT32);
    y5_scale_img twin = *job;
    y5_error error;
    twin.output = expected.data;
    twin.variant = (job->variant % 2 ? Y5_SCALE_FUSED_INDEX : 0) |
                   (ways == FUSED_BLENDS ? Y5_SCALE_FUSED_BLEND : 0);
    CHECK(y5_scale_img_run(&core, &twin, &error) == Y5_OK, "%s", error.message);
    check_same(job->output, expected.data, numel, Y5_FLOAT32, "scale_img");
}

static void
trial(int32_t variant)
{
    static const y5_dtype dtypes[] = {Y5_FLOAT32, Y5_FLOAT32, Y5_FLOAT16, Y5_BFLOAT16};
    y5_dtype dtype = dtypes[random_between(0, 3)];
    int64_t batch = random_between(1, 3);
    int64_t channels = random_between(1, 6);
    bool last = channels > 1 && random_between(0, 1);
    y5_scale_img job = {
        .planes = last ? batch : batch * channels,
        .interleaved = last ? channels : 1,
        .channels = channels,
        .rows = {random_between(1, 30), random_between(1, 40), 0},
        .columns = {random_between(1, 50), random_between(1, 60), 0},
        .dtype = dtype,
        .variant = variant,
    };
    if (random_between(0, 3) == 0) { /* one axis or both keep their size */
        job.rows.resized = job.rows.input;
        job.columns.resized = random_between(0, 1) ? job.columns.input : job.columns.resized;
    }
    job.rows.output =
        random_between(0, 1) ? (job.rows.resized + 31) / 32 * 32 : random_between(1, 40);
    job.columns.output = random_between(0, 1) ? job.columns.resized : random_between(1, 70);
    int64_t images = batch * channels;
    array image = image_of(images * job.rows.input * job.columns.input, dtype);
    array output = array_of(images * job.rows.output * job.columns.output, dtype);
    job.image = image.data;
    job.output = output.data;
    shake_machine();
    CALL(scale_img, &here, &job);
    expect_launches(1);
    check_against_oracle(&job);
    check_against_core(&job);
    free_all();
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
