"""Each call that the extension makes fails once in turn: python -m tests.robustness.faults.inject,
on an extension that faults.c is linked into (tests/instrumented.py).

What comes of it must be that very exception, nothing written, and nothing kept.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

from . import cases
from .campaign import Trial, main
from .instrument import FAILS_FOR_WANT_OF_MEMORY, MAY_RAISE, NEVER, count_points, held, strike


class Injected(BaseException):
    """What nothing may handle."""


class Failure:
    """What fails: the kinds of points, and what is raised there."""

    def __init__(self, kinds: int, kind: type[BaseException], *becomes: str) -> None:
        self.kinds, self.kind, self.becomes = kinds, kind, becomes

    def make(self) -> BaseException | None:
        """The words are those of an attribute, and of an argument, that is not known."""
        return None if self.kind is MemoryError else self.kind("no such attribute or argument")


# To some exceptions the extension knows an answer: what is named here, or to do without.
FAILURES = {
    "no memory": Failure(FAILS_FOR_WANT_OF_MEMORY, MemoryError),
    "injected": Failure(MAY_RAISE, Injected),
    "no attribute": Failure(MAY_RAISE, AttributeError, "Unsupported", "TypeError"),
    "torch's refusal": Failure(MAY_RAISE, RuntimeError, "Unsupported"),
    "wrong type": Failure(MAY_RAISE, TypeError, "Unsupported"),
}

# Functions without which a call ends as it does with them, and why.
DISPENSABLE = {
    "PyUnicode_AsEncodedString": "a message names less",
    "malloc": "a layer's ties are left to torch, or work is not shared out",
    "realloc": "a trail ends early",
}

STRUCK: set[str] = set()


class Subject:
    """A case that is used again as long as its calls leave it as it was."""

    def __init__(self, make: Callable[[], cases.Case], way: str) -> None:
        self.make = make
        # Versions: raised one after the other by an old torch, and before a GPU's number is made.
        self.versioned = way not in ("old capsule", "gpu")
        twin = self.renew()
        ended = strike(twin.call, NEVER, 0)
        assert not isinstance(ended.error, SystemError), ended.error
        self.usual = type(ended.error) if ended.error else None
        self.new = twin.state()
        self.case = self.renew()
        self.old = self.state()

    def state(self) -> list[Any]:
        """Also what torch's autograd was told of the tensors."""
        return [*self.case.state(), [t._version for t in self.case.tensors if self.versioned]]

    def renew(self) -> cases.Case:
        """The first call does more than those after it."""
        case = cases.fresh(self.make)
        strike(case.call, NEVER, 0)
        return case

    def judge(
        self, failure: Failure, raised: type[BaseException] | None, where: str | None
    ) -> str | None:
        """What is wrong with what was raised, and with the state it left."""
        *state, versions = self.state()
        unchanged = [*state, versions] == self.old
        if raised is failure.kind:
            written = self.case.fails_written and state == self.new
            return None if written or unchanged else "it was raised, and something written"
        if raised is not None and raised is not self.usual:
            if raised.__name__ not in failure.becomes:
                return f"{raised.__name__} was raised"
            return None if unchanged else "refused, and something written"
        if not failure.becomes and where not in (None, *DISPENSABLE):
            return "nothing came of it"
        if where == "malloc" and self.case.fails_written:
            return None  # the ties that are not torch's are named to the caller
        return None if state == self.new else "not all was written"


def kept(case: cases.Case, failure: Failure, at: int) -> str | None:
    """What a failure has left behind."""
    gc.collect()
    before, counted = held(), case.references()
    strike(case.call, at, failure.kinds, failure.make())
    gc.collect()
    if held() != before:
        return f"blocks, loans, uses were {before} and are {held()}"
    changes = [b - a for a, b in zip(counted, case.references(), strict=True)]
    return f"references changed by {changes}" if any(changes) else None


def fail(subject: Subject, failure: Failure, at: int) -> str | None:
    """One failure; what is wrong with what came of it."""
    case, before, counted = subject.case, held(), subject.case.references()
    ended = strike(case.call, at, failure.kinds, failure.make())
    where, raised = ended.where, type(ended.error) if ended.error else None
    del ended
    STRUCK.update([where] if where else [])
    wrong = subject.judge(failure, raised, where)
    if wrong is None and (held() != before or case.references() != counted):
        wrong = kept(case, failure, at)  # once more, without what others have left
    if wrong is not None or subject.state() != subject.old:
        subject.case = subject.renew()
    return f"at {where}: {wrong}" if wrong is not None else None


def pass_again(subject: Subject, kinds: int, usual: int) -> str | None:
    """An undisturbed call does the same whatever has failed before it: nothing stayed locked."""
    passed = count_points(subject.renew().call, kinds)
    return f"passes {passed} points, not {usual} as at first" if passed != usual else None


def trials(way: str) -> Iterator[Trial]:
    for make in cases.CASES[way]:
        subject = Subject(make, way)
        for name, failure in FAILURES.items():
            points = count_points(subject.renew().call, failure.kinds)
            for at in range(points):
                run = functools.partial(fail, subject, failure, at)
                yield Trial(f"{make.__name__}, {name}, {at}", run)
            again = functools.partial(pass_again, subject, failure.kinds, points)
            yield Trial(f"{make.__name__}, {name}, again", again)


if __name__ == "__main__":
    sys.exit(main("fault injection", trials, lambda: f" at {len(STRUCK)} functions"))
