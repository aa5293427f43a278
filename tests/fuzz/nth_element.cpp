// std::nth_element with torch.topk's comparison (aten/src/ATen/native/TopKImpl.h). Knows no
// weights.
#include "nth_element.h"

#include <algorithm>
#include <cmath>

extern "C" void
move_smallest_to_front(ranked *elements, int64_t front, int64_t count)
{
    std::nth_element(elements, elements + front - 1, elements + count,
                     [](const ranked &a, const ranked &b) {
                         return (!std::isnan(a.magnitude) && std::isnan(b.magnitude)) ||
                                a.magnitude < b.magnitude;
                     });
}
