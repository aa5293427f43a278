/* The witness of a debug build: does this thread use addresses of tensors? The one variable of the
 * extension outside its state, and not there in any other build. */
#include "python/borrowed.h"

#ifndef NDEBUG
static _Thread_local int borrowing;

void
y5_borrowing_begins(void)
{
    borrowing++;
}

void
y5_borrowing_ends(void)
{
    borrowing--;
}

void
y5_python_may_run(void)
{
    if (borrowing > 0) {
        Py_FatalError("yolov5_utils: Python code could run while addresses of tensors are in use");
    }
}
#endif
