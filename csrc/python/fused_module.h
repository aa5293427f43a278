/* From fused tensors to an nn.Conv2d. Knows how nn.Module keeps its members, nothing of arithmetic.
 */
#ifndef Y5_FUSED_MODULE_H
#define Y5_FUSED_MODULE_H

#include "python/fusion.h"

/* What an entry (name, kind, value) of a pattern says of the member `name` of a new module. */
enum {
    Y5_MEMBER_CONSTANT,         /* the value itself */
    Y5_MEMBER_NEW,              /* what calling the value returns: an empty container */
    Y5_MEMBER_PARAMETERS,       /* the dict of the fused weight and bias */
    Y5_MEMBER_REVERSED_PADDING, /* what nn.Conv2d derives from its padding */
    Y5_MEMBER_FIELD = 16,       /* 16 + the number of one of the fields above */
};

/* The nn.Conv2d of pair `at`, after the constructor's pattern: a tuple of entries in the order of
 * the __dict__ of a constructed one. NULL with an exception. */
PyObject *y5_make_fused_module(const y5_state *state, const y5_fusion *fusion, int64_t at,
                               PyObject *pattern);

#endif
