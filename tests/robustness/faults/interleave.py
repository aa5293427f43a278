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

from yolov5_utils import _C

from ...support import in_threads
from ..attack import CHANGES, MODULE_CHANGES, TENSOR_CHANGES, Mode, leave_modes
from . import cases
from .campaign import Trial, main
from .inject import Injected
from .instrument import NEVER, RUNS_PYTHON, count_points, strike

OTHERS_RUN = ("PyEval_SaveThread", "PyEval_RestoreThread")


class Act(NamedTuple):
    """What somebody does in the middle of a call."""

    name: str
    aim: Callable[[cases.Case], Callable[[], object]]  # at something of the case
    changes: bool = False  # what the call works on


def raise_injected() -> None:
    raise Injected


def other_calls() -> None:
    for make in (cases.ema_update, cases.count_module_zeros, cases.fuse, cases.prune):
        make().call()


def empty_lists(case: cases.Case) -> Callable[[], object]:
    lists = list(case.lists)
    return lambda: [entries.clear() for entries in lists]


def on(change: Callable[[Any], object], kind: str, at: int) -> Callable[..., Callable[[], object]]:
    """A change of one of the case's tensors or modules; torch, or Python, refuses some."""

    def aim(case: cases.Case) -> Callable[[], object]:
        target = getattr(case, kind)[at]

        def do() -> None:
            with contextlib.suppress(RuntimeError, TypeError):
                change(target)

        return do

    return aim


def acts(case: cases.Case) -> Iterator[Act]:
    for name, change in CHANGES.items():
        yield Act(name, lambda _, change=change: change, changes=name == "what gc lists")
    yield Act("raises", lambda _: raise_injected)
    yield Act("other calls", lambda _: other_calls)
    yield Act("the same call", lambda case: lambda: strike(case.call, NEVER, 0), changes=True)
    yield Act("a mode", lambda _: lambda: Mode().__enter__(), changes=True)
    yield Act("gradients on", lambda _: lambda: torch.set_grad_enabled(True))
    yield Act("default type", lambda _: lambda: torch.set_default_dtype(torch.float64), True)
    yield Act("gil_bytes 0", lambda _: lambda: _C.configure(gil_bytes=0))
    yield Act("lists emptied", empty_lists, changes=True)
    for kind, changes in (("tensors", TENSOR_CHANGES), ("modules", MODULE_CHANGES)):
        count = len(getattr(case, kind))
        for at in sorted({0, count // 2, count - 1} if count else ()):
            for name, change in changes.items():
                yield Act(f"{kind} {at}: {name}", on(change, kind, at), changes=True)


def act_at(make: Callable[[], cases.Case], new: list[Any], act: Act, at: int) -> str | None:
    """One act at one point; what is wrong with what came of it."""
    case = cases.fresh(make)
    old = case.state()
    beside = case.surroundings(old)
    settings, aimed = _C.configure(), act.aim(case)
    for held in (case.tensors, case.modules, case.others):
        held.clear()  # so that what somebody lets go of ends, unless the call holds it

    def do(where: str) -> None:
        if where not in OTHERS_RUN:
            aimed()
        elif act.name != "raises" and "storage" not in act.name:
            in_threads(aimed)  # torch's own operations do not survive that a storage is taken away

    ended = strike(case.call, at, RUNS_PYTHON, do)
    leave_modes()
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    _C.configure(**settings)
    state = case.state()
    if isinstance(ended.error, SystemError):
        return f"at {ended.where}: {ended.error!r}"
    ends = zip(case.surroundings(state), beside, strict=True)
    if not all(now in (was, b"") for now, was in ends):
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
