/* May C do anything here at all? */
#ifndef Y5_ENVIRONMENT_H
#define Y5_ENVIRONMENT_H

#include "core/y5.h"
#include "python/state.h"

/* Y5_UNSUPPORTED where torch operations would not do just what they do by default: then they have
 * to be the ones that run. */
y5_status y5_check_environment(const y5_state *state, y5_error *error);

#endif
