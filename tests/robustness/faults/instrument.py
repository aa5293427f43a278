"""The points inside an extension that faults.c is linked into, as Python sees them: it can have one
of them fail or run a function, and knows what the extension holds."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Any, NamedTuple

from yolov5_utils import _C

# The kinds of points.h.
OWN, MEMORY, RAISES, RUNS, FREES = 1, 2, 4, 8, 16
FAILS_FOR_WANT_OF_MEMORY = OWN | MEMORY | RAISES | RUNS
MAY_RAISE = RAISES | RUNS
RUNS_PYTHON = MEMORY | RUNS | FREES  # allocations may start a collection of garbage
NEVER = -1

_Numbers = ctypes.c_long * 3
_library = ctypes.PyDLL(_C.__file__)
_library.faults_arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p]
_library.faults_arm.restype = None
_library.faults_disarm.restype = ctypes.c_long
_library.faults_where.restype = ctypes.c_char_p


class Ended(NamedTuple):
    """How a call went: what it raised, where the point was that was struck, how many it passed."""

    error: BaseException | None
    where: str | None
    passed: int


def strike(call: Callable[[], object], at: int, kinds: int, what: Any = None) -> Ended:
    """Makes the call. At its point number `at`, of these kinds, an exception is raised, lack of
    memory where it is None, or with RUNS_PYTHON a function is called with the point's name."""
    error: BaseException | None = None
    collecting = gc.isenabled()
    _library.faults_arm(at, kinds, None if what is None else id(what))
    try:
        call()
    except BaseException as raised:
        error = raised.with_traceback(None)  # which holds all that took part
    try:
        passed = _library.faults_disarm()
    except BaseException as left:  # ctypes raises what is pending
        error = SystemError(f"{left!r} was pending behind the call")
        passed = _library.faults_disarm()
    if gc.isenabled() != collecting:
        gc.enable()
        error = SystemError(f"the garbage collector was left off by what ended with {error!r}")
    where = _library.faults_where()
    return Ended(error, where.decode() if where else None, passed)


def count_points(call: Callable[[], object], kinds: int) -> int:
    """How many points of these kinds a call passes."""
    what = (lambda _: None) if kinds & FREES else None
    return strike(call, NEVER, kinds, what).passed


def held() -> list[int]:
    """Blocks of memory, managed tensors, and uses of addresses that the extension has now."""
    numbers = _Numbers()
    _library.faults_held(numbers)
    return list(numbers)
