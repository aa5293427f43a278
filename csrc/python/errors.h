/* The one place where a y5_status becomes a Python exception. */
#ifndef Y5_ERRORS_H
#define Y5_ERRORS_H

#include "python/state.h"

/* Sets the exception for a status other than Y5_OK and returns NULL, for `return y5_raise(...)`. */
PyObject *y5_raise(const y5_state *state, y5_status status, const y5_error *error);

/* Names the argument, or the part of it, that the error concerns. */
void y5_blame(y5_error *error, const char *argument);

/* The text of an exception's value as bytes, or NULL: then the reason why is pending. */
PyObject *y5_text_of(PyObject *value);

/* True where the text of the pending exception holds the word: then it is dropped. What the text
 * raises takes its place. */
bool y5_exception_says(const char *word);

#endif
