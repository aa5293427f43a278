"""At each point where Python code can run inside a call, somebody else does each of the things that
Python code can do: python -m tests.robustness.faults.interleave, on an extension that faults.c is
linked into (tests/instrumented.py), best with sanitizers.

Memory must stay sound; what was raised is raised; and where nobody has changed what the call works
on, its tensors are as before or as the call leaves them.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolov5_utils import _C

from ..attack import CHANGES, MODULE_CHANGES, TENSOR_CHANGES, Mode, leave_modes
from . import cases
from .campaign import Trial, main
from .inject import Injected
from .instrument import NEVER, RUNS_PYTHON, count_points, strike

OTHERS_RUN = ("PyEval_SaveThread", "PyEval_RestoreThread")


class Act(NamedTuple):
    """What somebody does in the middle of a call."""

    name: str
    do: Callable[[cases.Case], object]
    changes: bool = False  # what the call works on


def raise_injected(_: cases.Case) -> None:
    raise Injected


def other_calls(_: cases.Case) -> None:
    for make in (cases.ema_update, cases.count_module_zeros, cases.fuse, cases.prune):
        make().call()


def enter_mode(_: cases.Case) -> None:
    Mode().__enter__()


def on_tensor(change: Callable[[Tensor], object], at: int) -> Callable[[cases.Case], None]:
    def do(case: cases.Case) -> None:
        with contextlib.suppress(RuntimeError):  # torch refuses some
            change(case.tensors[at])

    return do


def on_module(change: Callable[[nn.Module], object], at: int) -> Callable[[cases.Case], None]:
    def do(case: cases.Case) -> None:
        with contextlib.suppress(TypeError):  # Python refuses some
            change(case.modules[at])

    return do


def acts(case: cases.Case) -> Iterator[Act]:
    for name, change in CHANGES.items():
        yield Act(name, lambda _, change=change: change(), changes=name == "what gc lists")
    yield Act("raises", raise_injected)
    yield Act("other calls", other_calls)
    yield Act("the same call", lambda case: strike(case.call, NEVER, 0), changes=True)
    yield Act("a mode", enter_mode, changes=True)
    yield Act("gradients on", lambda _: torch.set_grad_enabled(True))
    yield Act("another default type", lambda _: torch.set_default_dtype(torch.float64), True)
    yield Act("gil_bytes 0", lambda _: _C.configure(gil_bytes=0))
    yield Act("lists emptied", lambda case: [entries.clear() for entries in case.lists], True)
    for at in sorted({0, len(case.tensors) // 2, len(case.tensors) - 1} - {-1}):
        for name, change in TENSOR_CHANGES.items():
            yield Act(f"tensor {at}: {name}", on_tensor(change, at), changes=True)
    for at in sorted({0, len(case.modules) - 1} - {-1}):
        for name, change in MODULE_CHANGES.items():
            yield Act(f"module {at}: {name}", on_module(change, at), changes=True)


def act_at(make: Callable[[], cases.Case], new: list[Any], act: Act, at: int) -> str | None:
    """One act at one point; what is wrong with what came of it."""
    case = cases.fresh(make)
    old, beside = case.state(), case.surroundings()
    settings = _C.configure()

    def do(where: str) -> None:
        if where in OTHERS_RUN and "storage" in act.name:
            return  # while another thread computes, torch's own operations do not survive that
        act.do(case)

    ended = strike(case.call, at, RUNS_PYTHON, do)
    leave_modes()
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    _C.configure(**settings)
    state = case.state()
    if isinstance(ended.error, SystemError):
        return f"at {ended.where}: {ended.error!r}"
    if not all(now in (was, b"") for now, was in zip(case.surroundings(), beside, strict=True)):
        return f"at {ended.where}: written beside a tensor"
    raised = isinstance(ended.error, Injected)
    whole = (old,) if raised and not case.fails_written else (old, new)
    if not act.changes and state not in whole:
        return f"at {ended.where}: neither as before nor as after, {ended.error!r}"
    return None


def trials(way: str) -> Iterator[Trial]:
    for make in cases.CASES[way]:
        case = cases.fresh(make)
        points = count_points(case.call, RUNS_PYTHON)
        new = case.state()
        for act in acts(case):
            for at in range(points):
                run = functools.partial(act_at, make, new, act, at)
                yield Trial(f"{make.__name__}, {act.name}, {at}", run)


if __name__ == "__main__":
    sys.exit(main("interleaving", trials))
