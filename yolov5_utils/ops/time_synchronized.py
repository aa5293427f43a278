"""time_synchronized: wall-clock time once the GPU is idle."""

from __future__ import annotations

from collections.abc import Callable

from .. import _native, reference, verify
from ..operation import Operation
from ..originals import Originals

OPERATION = Operation(
    "time_synchronized",
    ("time_synchronized", "time_sync"),
    "time_synchronized",
    Originals(),  # C itself looks at what it calls
    usual=lambda: (),
    call=lambda: time_synchronized(),
    reference=reference.time_synchronized,
    check=lambda: None,
    counted_in_c=lambda: _native._C.info()["clock_calls"],
    runs="asks torch for a CUDA device and waits for it, then reads the clock",
)


def _through_torch() -> float:
    """time.time() after the current CUDA device, where one is available, has finished its work."""
    OPERATION.note_torch(OPERATION.refusal() or "asked for")
    return reference.time_synchronized()


def _choose() -> Callable[[], float]:
    """The C function itself, which takes less time than a function in Python around it would."""
    if OPERATION.refusal() is not None:
        return _through_torch
    return verify.clock(_native._C.time_synchronized) if verify.ON else _native._C.time_synchronized


time_synchronized: Callable[[], float] = _choose()
time_sync = time_synchronized  # its name from YOLOv5 6.0 on
