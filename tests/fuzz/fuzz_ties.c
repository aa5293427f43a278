/* Which of several equally small weights are pruned, against the C++ library's nth_element: what
 * torch.topk calls. Where C leaves the choice to torch there is nothing to compare. */
#include "core/ops.h"
#include "fuzz_layer.h"
#include "nth_element.h"
#include "prune_oracle.h"

#include <math.h>

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input from = {data, size};
    y5_run run = {take_level(&from), {NULL, 1}};
    y5_prune_layer layer = take_layer(&from);
    y5_prune(&run, &layer, 1, true);
    bool heap = layer.count * 64 <= layer.numel; /* torch takes one then */
    if (!layer.ambiguous && !heap && layer.count > 0) {
        ranked *order = allocate(layer.numel * (int64_t)sizeof(*order));
        for (int64_t i = 0; i < layer.numel; i++) {
            order[i] = (ranked){fabs(get_element(layer.weights, i, layer.dtype)), i};
        }
        move_smallest_to_front(order, layer.count, layer.numel);
        void *expected = allocate(layer.numel * (int64_t)y5_dtype_bytes(layer.dtype));
        prune_in_order(&layer, order, expected);
        check_same(layer.pruned, expected, layer.numel, layer.dtype, "the choice");
    }
    free_all();
    return 0;
}
