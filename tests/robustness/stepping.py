"""Something that happens between two instructions of the package: each one of them in turn."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yolov5_utils

PACKAGE = str(Path(yolov5_utils.__file__).parent)


class Interrupt(BaseException):
    """What a signal handler raises here."""


class OfEveryKind(
    Interrupt,
    TypeError,
    ValueError,
    NotImplementedError,
    ArithmeticError,
    KeyError,
    IndexError,
    AssertionError,
    AttributeError,
):
    """Whoever catches one of these kinds, or all, takes it for what he expected."""


def interrupt(*_: Any) -> None:
    raise OfEveryKind("not implemented: what torch says of a type")


def interrupt_that_passes(*_: Any) -> None:
    """For torch's own pruning, which catches every Exception on its way."""
    raise Interrupt


def with_action_at(
    step: int, action: Callable[[], Any], call: Callable[[], Any], *files: str
) -> bool:
    """Run `call()` with `action()` before the instruction number `step`, from 0 on, of the package.

    True where there are so many. What the action raises is raised there. Instructions of files
    whose names begin with one of `files` count as well. Python handles signals at fewer places.
    """
    left = step

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith((PACKAGE, *files)):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                sys.settrace(None)
                action()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return left < 0


def interrupted_at_each(
    call: Callable[[], Any],
    check: Callable[[bool], Any],
    *files: str,
    every: int = 1,
    action: Callable[..., None] = interrupt,
) -> int:
    """Interrupt `call` at each of its instructions; `check` learns whether it was interrupted.

    The number of instructions.
    """
    step, interrupted = 0, True
    while interrupted:
        try:
            interrupted = with_action_at(step, action, call, *files)
            assert not interrupted, "the interrupt was swallowed"
        except Interrupt:
            interrupted = True
        check(interrupted)
        step += every
    return step


@contextmanager
def raising_after(seconds: float, action: Callable[..., None] = interrupt) -> Iterator[None]:
    """A timer whose signal's handler raises Interrupt during the block, or not, if that is over."""
    handler = signal.signal(signal.SIGALRM, action)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
