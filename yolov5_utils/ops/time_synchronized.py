"""time_synchronized: wall-clock time once the GPU is idle."""

from __future__ import annotations

from .. import _native, reference


def time_synchronized() -> float:
    """time.time() after the current CUDA device, where one is available, has finished its work."""
    _native.note_torch("time_synchronized", "not in C in this version")
    return reference.time_synchronized()
