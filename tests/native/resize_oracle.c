/* The formula of scale_img, written plainly. Shares nothing with core/scale_img.c. */
#include "resize_oracle.h"

#include "core/ops.h"
#include "support.h"

#include <math.h>
#include <string.h>

y5_tensor
image_tensor(const image_case *image, const int64_t size[2], void *data)
{
    int64_t channels = image->channels;
    int64_t pixels = size[0] * size[1];
    y5_tensor tensor = {data, image->batch * channels * pixels, Y5_FLOAT32, Y5_CPU, 0, 4, {0}, {0}};
    int64_t shape[4] = {image->batch, channels, size[0], size[1]};
    int64_t planar[4] = {channels * pixels, pixels, size[1], 1};
    int64_t mixed[4] = {channels * pixels, 1, size[1] * channels, channels};
    memcpy(tensor.shape, shape, sizeof(shape));
    memcpy(tensor.strides, image->interleaved ? mixed : planar, sizeof(planar));
    return tensor;
}

typedef struct {
    int64_t first;
    int64_t second;
    float weight; /* of the second */
} place;

/* Between which two inputs an output lies. */
static place
find_place(int64_t input, int64_t resized, int64_t index, bool fused)
{
    if (input == resized) {
        return (place){index, index, 0.0F};
    }
    float scale = (float)input / (float)resized;
    float centre = (float)index + 0.5F;
    float product = scale * centre;
    float source = fused ? fmaf(scale, centre, -0.5F) : product - 0.5F;
    source = fmaxf(source, 0.0F);
    int64_t first = (int64_t)fminf(floorf(source), (float)(input - 1));
    int64_t second = first + 1 < input ? first + 1 : first;
    return (place){first, second, fminf(source - (float)first, 1.0F)};
}

static float
blend(float a, float weight_a, float b, float weight_b, bool fused)
{
    float second = b * weight_b;
    float first = a * weight_a;
    return fused ? fmaf(a, weight_a, second) : first + second;
}

static float
image_element(const y5_tensor *tensor, const int64_t at[4])
{
    int64_t offset = 0;
    for (int32_t i = 0; i < 4; i++) {
        offset += at[i] * tensor->strides[i];
    }
    return ((const float *)tensor->data)[offset];
}

static float
tap(const y5_tensor *input, const int64_t at[4], int64_t row, int64_t column)
{
    int64_t there[4] = {at[0], at[1], row, column};
    return image_element(input, there);
}

static float
resized_element(const image_case *image, const y5_tensor *input, const int64_t at[4])
{
    if (at[2] >= image->resized[0] || at[3] >= image->resized[1]) {
        return 0.447F;
    }
    bool fused_index = (image->variant & Y5_SCALE_FUSED_INDEX) != 0;
    bool fused = (image->variant & Y5_SCALE_FUSED_BLEND) != 0;
    place row = find_place(image->input[0], image->resized[0], at[2], fused_index);
    place column = find_place(image->input[1], image->resized[1], at[3], fused_index);
    float p = tap(input, at, row.first, column.first);
    float q = tap(input, at, row.first, column.second);
    float u = tap(input, at, row.second, column.first);
    float v = tap(input, at, row.second, column.second);
    float up = 1.0F - row.weight;
    float left = 1.0F - column.weight;
    int32_t order = image->variant / Y5_SCALE_FOUR_TAPS;
    if (order == 0) {
        float above = blend(p, left, q, column.weight, fused);
        float below = blend(u, left, v, column.weight, fused);
        return blend(above, up, below, row.weight, fused);
    }
    float taps[4] = {q, p, u, v};
    float weights[4] = {up * column.weight, up * left, row.weight * left,
                        row.weight * column.weight};
    int64_t lanes = (int64_t)1 << order;
    static const int32_t from_last[4] = {2, 3, 0, 1};
    bool turned = order > 1 && at[1] < image->channels / lanes * lanes;
    float sum = 0.0F;
    for (int32_t i = 0; i < 4; i++) {
        int32_t which = turned ? from_last[i] : i;
        float product = taps[which] * weights[which];
        sum = i == 0 ? product : fused ? fmaf(taps[which], weights[which], sum) : sum + product;
    }
    return sum;
}

void
check_resized(const image_case *image, const y5_tensor *input, const y5_tensor *output)
{
    for (int64_t i = 0; i < output->numel; i++) {
        int64_t at[4];
        int64_t rest = i;
        for (int32_t d = 3; d >= 0; d--) {
            at[d] = rest % output->shape[d];
            rest /= output->shape[d];
        }
        float found = image_element(output, at);
        float expected = resized_element(image, input, at);
        CHECK(memcmp(&found, &expected, sizeof(found)) == 0 || (isnan(found) && isnan(expected)),
              "%dx%d to %dx%d in %dx%d, %d channels%s, variant %d, row %d column %d: %a, not %a",
              (int)image->input[0], (int)image->input[1], (int)image->resized[0],
              (int)image->resized[1], (int)image->output[0], (int)image->output[1],
              (int)image->channels, image->interleaved ? " side by side" : "", (int)image->variant,
              (int)at[2], (int)at[3], (double)found, (double)expected);
    }
}
