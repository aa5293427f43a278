/* Bilinear resize and padding in one pass, with the bits of torch's CUDA kernel however that was
 * contracted. The twin of csrc/core/scale_img.inc; knows nothing of launches. */
#ifndef Y5_SCALE_IMG_CUH
#define Y5_SCALE_IMG_CUH

#include "device.cuh"
#include "y5_cuda.h"

namespace y5 {

/* What stands to the right and below, as the original pads. */
constexpr float pad_value = 0.447F;

/* The two inputs an output lies between, and their weights. */
struct scale_tap {
    int64_t first;
    int64_t second;
    float left;
    float right;
};

__device__ __forceinline__ scale_tap
tap_of(const y5_axis &axis, float scale, int64_t index, bool fused)
{
    float centre = add((float)index, 0.5F);
    float place = fused ? fmaf(scale, centre, -0.5F) : add(multiply(scale, centre), -0.5F);
    place = place < 0.0F ? 0.0F : place;
    int64_t last = axis.input - 1;
    scale_tap tap;
    tap.first = (int64_t)place < last ? (int64_t)place : last;
    tap.second = tap.first + (tap.first < last);
    tap.right = add(place, -(float)tap.first);
    tap.left = add(1.0F, -tap.right);
    return tap;
}

/* a * x + b * y as y5_cuda.h numbers the ways. */
__device__ __forceinline__ float
blend(float a, float x, float b, float y, int way)
{
    if (way == 1) {
        return fmaf(a, x, multiply(b, y));
    }
    if (way == 2) {
        return fmaf(b, y, multiply(a, x));
    }
    return add(multiply(a, x), multiply(b, y));
}

/* Elements `at` of all planes of this thread, resized. */
template <typename T>
__device__ __forceinline__ void
scale_element(const scale_job &work, int64_t row, int64_t column, int64_t channel, int64_t at)
{
    const y5_scale_img &job = work.image;
    int64_t in_row = job.columns.input * job.interleaved;
    int64_t in_plane = job.rows.input * in_row;
    int64_t out_plane = job.rows.output * job.columns.output * job.interleaved;
    scale_tap x = tap_of(job.columns, work.column_scale, column, work.fused_index);
    scale_tap y = tap_of(job.rows, work.row_scale, row, work.fused_index);
    const T *image = (const T *)job.image;
    T *output = (T *)job.output + at;
    int64_t p = y.first * in_row + x.first * job.interleaved + channel;
    int64_t q = y.first * in_row + x.second * job.interleaved + channel;
    int64_t u = y.second * in_row + x.first * job.interleaved + channel;
    int64_t v = y.second * in_row + x.second * job.interleaved + channel;
    for (int64_t plane = blockIdx.z; plane < job.planes;
         plane += work.plane_groups * scale_planes) {
        float taps[scale_planes][4];
#pragma unroll
        for (int i = 0; i < scale_planes; i++) {
            int64_t current = plane + i * work.plane_groups;
            if (current < job.planes) {
                const T *from = image + current * in_plane;
                taps[i][0] = widen(from[p]);
                taps[i][1] = widen(from[q]);
                taps[i][2] = widen(from[u]);
                taps[i][3] = widen(from[v]);
            }
        }
#pragma unroll
        for (int i = 0; i < scale_planes; i++) {
            int64_t current = plane + i * work.plane_groups;
            if (current < job.planes) {
                float above = blend(x.left, taps[i][0], x.right, taps[i][1], work.above_blend);
                float below = blend(x.left, taps[i][2], x.right, taps[i][3], work.below_blend);
                float value = blend(y.left, above, y.right, below, work.row_blend);
                output[current * out_plane] = narrow<T>(work.copied ? taps[i][0] : value);
            }
        }
    }
}

template <typename T>
__device__ __forceinline__ void
pad_element(const scale_job &work, int64_t at)
{
    const y5_scale_img &job = work.image;
    int64_t out_plane = job.rows.output * job.columns.output * job.interleaved;
    for (int64_t plane = blockIdx.z; plane < job.planes; plane += work.plane_groups) {
        ((T *)job.output)[plane * out_plane + at] = narrow<T>(pad_value);
    }
}

/* Threads side by side take elements side by side; x walks along the row, y over rows, z over
 * planes. */
template <typename T>
__device__ __forceinline__ void
scale_img(const scale_job &work)
{
    const y5_scale_img &job = work.image;
    int64_t out_row = job.columns.output * job.interleaved;
    int64_t first = (int64_t)blockIdx.x * scale_row_threads + threadIdx.x % scale_row_threads;
    int64_t first_row = (int64_t)blockIdx.y * scale_rows + threadIdx.x / scale_row_threads;
    for (int64_t row = first_row; row < job.rows.output; row += (int64_t)gridDim.y * scale_rows) {
        for (int64_t i = first; i < out_row; i += (int64_t)gridDim.x * scale_row_threads) {
            int64_t column = job.interleaved == 1 ? i : i / job.interleaved;
            int64_t at = row * out_row + i;
            if (row < job.rows.resized && column < job.columns.resized) {
                scale_element<T>(work, row, column, i - column * job.interleaved, at);
            } else {
                pad_element<T>(work, at);
            }
        }
    }
}

} // namespace y5

#endif
