/* The library's functions before they are exported, one per slot of y5_cuda_api. */
#ifndef Y5_OPERATIONS_H
#define Y5_OPERATIONS_H

#include "y5_cuda.h"

#include <type_traits>

namespace y5 {

extern const char *const architectures;

/* The oldest release of CUDA whose driver runs this library if built with `toolkit`: the runtime
 * wants the driver's major release to be its own, and more than 4 KiB of a kernel's arguments want
 * the driver of 12.1. Numbers like CUDART_VERSION. */
constexpr int
oldest_driver(int toolkit)
{
    return toolkit >= 13000 ? toolkit / 1000 * 1000 : 12010;
}

/* The function that a slot points to. */
template <typename Pointer> using pointed = std::remove_pointer_t<Pointer>;

pointed<decltype(y5_cuda_api::check_device)> check_device;
pointed<decltype(y5_cuda_api::ema_update)> ema_update;
pointed<decltype(y5_cuda_api::sparsity_count)> sparsity_count;
pointed<decltype(y5_cuda_api::sparsity_sum)> sparsity_sum;
pointed<decltype(y5_cuda_api::fuse)> fuse;
pointed<decltype(y5_cuda_api::prune_workspace_bytes)> prune_workspace_bytes;
pointed<decltype(y5_cuda_api::prune)> prune;
pointed<decltype(y5_cuda_api::scale_img)> scale_img;

} // namespace y5

#endif
