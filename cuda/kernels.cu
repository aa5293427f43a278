/* All kernels, by the names that kernels.h lists: what the launchers find in the image. */
#include "ema.cuh"
#include "fuse.cuh"
#include "prune.cuh"
#include "scale_img.cuh"
#include "sparsity.cuh"

using namespace y5;

/* A kernel of some arguments that calls its twin of the .cuh files. */
#define KERNEL(name, resident, call, ...)                                                          \
    extern "C" __global__ void __launch_bounds__(block_threads, resident) y5_##name(__VA_ARGS__)   \
    {                                                                                              \
        call;                                                                                      \
    }

/* Two of them, for tables of both sizes. */
#define TABLE_KERNELS(name, resident, Entry, call, ...)                                            \
    KERNEL(name##_few, resident, call, const __grid_constant__ few_items<Entry> table,             \
           ##__VA_ARGS__)                                                                          \
    KERNEL(name##_many, resident, call, const __grid_constant__ many_items<Entry> table,           \
           ##__VA_ARGS__)

#define EMA(name, Types)                                                                           \
    TABLE_KERNELS(name, resident_blocks, ema_entry, ema<Types>(table, scalars),                    \
                  const __grid_constant__ ema_scalars scalars)
EMA(ema_float32, ema_of_one_type<float>)
EMA(ema_float16, ema_of_one_type<half_bits>)
EMA(ema_bfloat16, ema_of_one_type<bfloat16_bits>)
EMA(ema_any, ema_of_any_types)

TABLE_KERNELS(sparsity, resident_blocks, zero_entry, sparsity(table, zeros),
              unsigned long long *zeros)
#define SPARSITY_SUM(name, T)                                                                      \
    KERNEL(name, resident_blocks, sparsity_sum(zeros, count, sum), const int64_t *zeros,           \
           int64_t count, T *sum)
SPARSITY_SUM(sparsity_sum_float32, float)
SPARSITY_SUM(sparsity_sum_float64, double)

TABLE_KERNELS(fuse, resident_blocks, fuse_entry, fuse(table))

TABLE_KERNELS(prune_digit, prune_resident_blocks, y5_prune_layer,
              prune_digit(table, workspace, digit), const prune_workspace workspace,
              const int digit)
TABLE_KERNELS(prune_ties, prune_resident_blocks, y5_prune_layer, prune_ties(table, workspace),
              const prune_workspace workspace)
TABLE_KERNELS(prune_apply, prune_resident_blocks, y5_prune_layer, prune_apply(table, workspace),
              const prune_workspace workspace)

#define SCALE_IMG(name, T)                                                                         \
    KERNEL(name, resident_blocks, scale_img<T>(work), const __grid_constant__ scale_job work)
SCALE_IMG(scale_img_float32, float)
SCALE_IMG(scale_img_float16, half_bits)
SCALE_IMG(scale_img_bfloat16, bfloat16_bits)
