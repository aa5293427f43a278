/* Which of several equally small weights torch prunes: those that the C++ library's nth_element
 * moves to the front. Knows keys and positions only. */
#ifndef Y5_PRUNE_TIES_H
#define Y5_PRUNE_TIES_H

#include "core/ops.h"

/* Corrects `pruned`, where any of the weights equal to the `count`-th smallest were zeroed, for the
 * choice that torch.topk makes among them on a CPU. Linear time; 8 bytes of memory an element.
 * False, with nothing changed, where this is not known here: float64, 2^32 elements, under 1/64 of
 * the weights to be pruned (torch keeps a heap then), data that drive the selection into its
 * depth limit, or no memory. */
bool y5_prune_choose_ties(const y5_prune_layer *layer);

#endif
