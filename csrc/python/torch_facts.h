/* What the extension knows of torch: the registration, and the interned names it looks up. */
#ifndef Y5_TORCH_FACTS_H
#define Y5_TORCH_FACTS_H

#include "python/state.h"

/* False with an exception. */
bool y5_names_make(y5_state *state);

/* One of state->calls has ended: the last one lets go what no call uses any more. */
void y5_facts_leave(y5_state *state);

/* For the module's own garbage collection. */
int y5_facts_traverse(y5_state *state, visitproc visit, void *arg);
void y5_facts_clear(y5_state *state);

#endif
