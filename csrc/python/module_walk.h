/* Walks nn.Module trees through their __dict__, without building state dicts: one tree for its
 * parameters, or two in lockstep for their state entries. Knows the layout of nn.Module, not what
 * the visitor does with a tensor. Keeps nothing between calls but the trail, which
 * decides nothing. */
#ifndef Y5_MODULE_WALK_H
#define Y5_MODULE_WALK_H

#include "python/plain_module.h"
#include "python/trail.h"

/* Called for each entry; references are borrowed. Anything but Y5_OK ends the walk. */
typedef y5_status (*y5_visit)(void *context, PyObject *entry, PyObject *counterpart,
                              const y5_path *path, y5_error *error);

/* Visits the entries of average.state_dict() in its order; `counterpart` is the entry of that key
 * in source.state_dict(), or NULL. Y5_UNSUPPORTED for a module whose state_dict is not nn.Module's
 * own: overridden or instance-level methods, extra state, hooks. */
y5_status y5_walk_states(const y5_state *state, y5_trail *trail, PyObject *average,
                         PyObject *source, y5_visit visit, void *context, y5_error *error);

/* Visits what module.parameters() yields, in its order, each parameter once; `counterpart` is NULL.
 * Y5_UNSUPPORTED for a module that overrides one of the methods behind parameters(). */
y5_status y5_walk_parameters(const y5_state *state, y5_trail *trail, PyObject *module,
                             y5_visit visit, void *context, y5_error *error);

#endif
