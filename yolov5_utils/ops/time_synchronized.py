"""time_synchronized: wall-clock time once the GPU is idle."""

from __future__ import annotations

from collections.abc import Callable

from .. import _native, reference, verify


def _through_torch() -> float:
    """time.time() after the current CUDA device, where one is available, has finished its work."""
    _native.note_torch("time_synchronized", _native.refusal("time_synchronized") or "asked for")
    return reference.time_synchronized()


def _choose() -> Callable[[], float]:
    """The C function itself, which takes less time than a function in Python around it would."""
    if _native.refusal("time_synchronized") is not None:
        return _through_torch
    return verify.clock(_native._C.time_synchronized) if verify.ON else _native._C.time_synchronized


time_synchronized = _choose()
time_sync = time_synchronized  # its name from YOLOv5 6.0 on
