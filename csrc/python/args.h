/* The argument parser of every function here: positional or by keyword, no defaults but NULL. */
#ifndef Y5_ARGS_H
#define Y5_ARGS_H

#include "python/state.h"

#define Y5_MAX_ARGUMENTS 4

/* A function's name and parameters. */
typedef struct {
    const char *function;
    Py_ssize_t required; /* the first so many parameters must be given */
    const char *parameters[Y5_MAX_ARGUMENTS + 1];
} y5_signature;

/* Puts borrowed arguments into `values` in the order of the parameters, NULL where one is left out.
 * Returns false with TypeError set, worded as Python words it. */
bool y5_parse(const y5_signature *signature, PyObject *const *arguments, Py_ssize_t positional,
              PyObject *keywords, PyObject **values);

#endif
