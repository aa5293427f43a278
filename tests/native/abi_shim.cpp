// Our declarations of the two functions found in torch's library by name, against the installed
// torch's header. Only compiled, never run. The folder of the test puts an empty stdatomic.h in
// front, because C's atomics are no C++.
#include <Python.h>

// Functions appear in the shim from the release on that is asked for: 2.10 brought these.
#define TORCH_TARGET_VERSION (((0ULL + 2) << 56) | ((0ULL + 10) << 48))
#include <torch/csrc/stable/c/shim.h>

#include <type_traits>

#define _Static_assert static_assert
#define _Atomic
#include "python/state.h"

static_assert(std::is_same_v<y5_pool_function, decltype(&torch_parallel_for)>,
              "type torch_parallel_for");
static_assert(std::is_same_v<decltype(y5_torch::parallel_for), decltype(&torch_parallel_for)>,
              "type torch_parallel_for in the state");
static_assert(std::is_same_v<decltype(y5_torch::get_num_threads), decltype(&torch_get_num_threads)>,
              "type torch_get_num_threads");
