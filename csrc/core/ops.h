/* The core's whole public face: one prototype per operation. Knows no Python. */
#ifndef Y5_OPS_H
#define Y5_OPS_H

#include "core/items.h"
#include "core/levels.h"
#include "core/parallel.h"

/* How a call is to be run: at which level, on which pool. */
typedef struct {
    y5_level level;
    y5_pool pool;
} y5_run;

/* Other threads may write to the memory of tensors while an operation reads it: torch's operations
 * hold no lock that would keep them from it. What becomes of such elements is then any mixture of
 * old and new; but no operation trusts what it read a moment ago, so that none reads or writes
 * outside the tensors, or does not end. */

/* Shape and strides (in elements) of a pair that does not walk its memory in one gapless order. */
typedef struct {
    int32_t ndim;
    int64_t shape[Y5_MAX_DIMS];
    int64_t average_strides[Y5_MAX_DIMS];
    int64_t source_strides[Y5_MAX_DIMS];
} y5_ema_layout;

/* Fills `layout` for two tensors of one shape that y5_tensor_same_order() tells apart or that have
 * gaps: dimensions reordered so that the last one is the average's tightest. False where elements
 * of the average share memory, or might. */
bool y5_ema_layout_of(y5_ema_layout *layout, const y5_tensor *average, const y5_tensor *source);

/* average = round(round(average · decay) + round(source · (1 − decay))) for every element: each
 * product rounded to its own tensor's type, the sum to the average's, the scalars to float32
 * (float64 for float64 tensors). Reads one element of each, writes one; 8 bytes of memory a pair.
 * Pairs run side by side: no average may overlap another average or any source. `layouts` holds a
 * pair's layout, or NULL where both are gapless in one order; NULL itself: all are. */
void y5_ema_update(const y5_run *run, const y5_ema_pair *pairs, const y5_ema_layout *const *layouts,
                   int64_t count, double decay);

/* The same in the parts and on the threads that torch takes for its own element-wise operations on
 * one entry after another: the original's bits also where threads of torch's pool, which run->pool
 * must be, have another floating-point state than the caller. */
void y5_ema_update_as_torch(const y5_run *run, const y5_ema_pair *pairs, int64_t count,
                            double decay);

/* True where y5_ema_update_as_torch() is able to: pairs of one type, float32 or float64, which
 * takes one instruction for each of torch's operations, and none with a layout. */
bool y5_ema_follows_torch(const y5_ema_pair *pairs, const y5_ema_layout *const *layouts,
                          int64_t count);

/* zeros[i] += elements of item i equal to zero: −0.0 is one, NaN is not. Reads each element once; 8
 * bytes of memory an item. */
void y5_sparsity_count(const y5_run *run, const y5_elements *items, int64_t count,
                       _Atomic int64_t *zeros);

/* Zeros of one tensor with any strides, on the calling thread. */
int64_t y5_sparsity_count_tensor(y5_level level, const y5_tensor *tensor);

/* pruned = weights, but 0 * weight for the layer's `count` smallest by (magnitude, position), NaN
 * being the largest. Reads each element twice and writes it once in the ordinary case; linear time
 * in every case. Needs 1/8 of the largest layer per thread, or 128 KiB if that is more, and does
 * without where that cannot be had. Threads take layers in the order given: largest first.
 * `like_torch`: ambiguous layers get the choice of torch.topk, where it is known, and are no longer
 * ambiguous then; that takes ten times as long and 8 bytes an element. */
void y5_prune(const y5_run *run, y5_prune_layer *layers, int64_t count, bool like_torch);

/* torch's bilinear kernels differ in three independent ways, and so do the bits of their results.
 * A variant is a sum of the first two and 0 to 4 times the third. */
#define Y5_SCALE_FUSED_INDEX                                                                       \
    1 /* where an output lies among the inputs: one FMA, or two roundings */
#define Y5_SCALE_FUSED_BLEND 2 /* sums of products by FMA, or every product rounded */
/* Not at all: columns before rows. Once: four taps, each with the product of its two weights. 2, 3
 * or 4 times: the same, added up from the last tap on in channels that fill vectors of 4, 8 or 16,
 * as torch's kernel does that has all channels of a pixel side by side. */
#define Y5_SCALE_FOUR_TAPS 4
#define Y5_SCALE_VARIANTS 20

/* Y5_OK for an image that C resizes: (batch, channels, height, width) in float32, row by row in
 * memory, or channels last with at most 3 channels. Else Y5_UNSUPPORTED. */
y5_status y5_scale_img_check(const y5_tensor *image, y5_error *error);

/* Fills `job`. `output` has the image's dtype, batch, channels and order in memory, any height and
 * width; `resized` is the height and width in front of padding. Y5_BAD_VALUE for another output;
 * sizes and variant are for those to check that compute with them. */
y5_status y5_scale_img_fill(y5_scale_img *job, const y5_tensor *image, const y5_tensor *output,
                            const int64_t resized[2], int32_t variant, y5_error *error);

/* The same for an image that C resizes, with sizes and variant checked: Y5_BAD_VALUE, or
 * Y5_UNSUPPORTED for a result that is too large. */
y5_status y5_scale_img_plan(y5_scale_img *job, const y5_tensor *image, const y5_tensor *output,
                            const int64_t resized[2], int32_t variant, y5_error *error);

/* Reads the input about once, writes the output once. 17 KiB of memory a thread and 81 KiB of its
 * own; Y5_NO_MEMORY, with nothing written, where they are not to be had. */
y5_status y5_scale_img_run(const y5_run *run, const y5_scale_img *job, y5_error *error);

/* sums[i] = variance[i] + epsilon, rounded to the type, epsilon to float32 first unless the type is
 * float64. */
void y5_fuse_variances(const y5_fuse_pair *pair, void *sums);

/* fused_weight = (gamma / roots) · weight + 0, fused_bias = (gamma / roots) · bias + (beta − gamma
 * · mean / roots), the roots being what the caller makes of the sums and puts in the variance's
 * place: each operation rounded to the inputs' type, the results to theirs, float32 or float64.
 * Results lie row after row; layouts[i].ndim is 0 where the weight does too, and `layouts` NULL
 * where all do. doubtful[i] becomes 1 where the original's matrix product may have other bits:
 * weights or biases that are not finite, products that vanish. Reads each element once and writes
 * it once; 8 bytes of memory a pair. Nothing may overlap but fused_bias and roots. */
void y5_fuse(const y5_run *run, const y5_fuse_pair *pairs, const y5_tensor *layouts, int64_t count,
             _Atomic int32_t *doubtful);

#define Y5_MT19937_WORDS 624

/* A Mersenne Twister mt19937 between two draws of 32 bits. */
typedef struct {
    int32_t left;  /* draws up to and with the one that twists the words: 1 ... 624 */
    uint32_t next; /* the word that is drawn next: 625 − left, or 0 before the first draw */
    uint32_t words[Y5_MT19937_WORDS];
} y5_mt19937;

/* True where `left` and `next` are as a draw or the seeding leaves them. */
bool y5_mt19937_is_valid(const y5_mt19937 *generator);

/* Leaves a valid generator as so many draws do; reads and writes its words once per 624 draws. */
void y5_mt19937_skip(y5_level level, y5_mt19937 *generator, uint64_t draws);

#endif
