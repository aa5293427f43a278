/* time_synchronized: the time once the current CUDA device, where there is one, has done its work.
 */
#ifndef Y5_CLOCK_H
#define Y5_CLOCK_H

#include "python/state.h"

extern const char y5_doc_time_synchronized[];

PyObject *y5_py_time_synchronized(PyObject *module, PyObject *unused);

/* Takes facts.clock, a tuple of the objects of the Y5_CLOCK enumeration, as new references. False
 * with TypeError set where it is none. */
bool y5_clock_learn(PyObject *facts, y5_torch *torch);

#endif
