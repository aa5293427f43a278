"""One check of the self-test: calls of a hot path, each beside the original's operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

from torch import Tensor, nn

from ... import bits
from ...operation import Operation
from ...ops import OPERATIONS


class Comparison:
    """One check: how many calls were equal, were left to torch, or cannot be done."""

    def __init__(self, operation: str) -> None:
        self._path = OPERATIONS[operation]
        self.equal = 0
        self.left: Counter[str] = Counter()  # calls by why torch was taken
        self.impossible: Counter[str] = Counter()  # calls by what the original raises

    def add(self, what: str, ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
        """Compare the results, tensors and numbers by name: AssertionError where one differs."""
        try:
            expected = theirs()
        except Exception as error:  # whatever it is, there is nothing to compare with
            self.impossible[one_line(error)] += 1
            return
        before = Counter(self._path.reasons)
        found = ours()
        reasons = Counter(self._path.reasons) - before
        if reasons:
            self.left += reasons
            return
        for name, value in expected.items():
            result = found[name]
            equal = bits.same(result, value) if isinstance(value, Tensor) else result == value
            if not equal:
                raise AssertionError(f"{what}: {name} differs from the original's")
        self.equal += 1

    def __str__(self) -> str:
        notes = [f"{count} left to torch ({why})" for why, count in self.left.items()]
        notes += [
            f"{count} that the original cannot do either ({why})"
            for why, count in self.impossible.items()
        ]
        return "; ".join([f"{self.equal} calls equal"] * bool(self.equal) + notes)


def usual_call(operation: Operation) -> Comparison:
    """The usual call of a hot path: its results, and what it leaves in its arguments."""
    to = Comparison(operation.name)
    given = operation.usual()
    to.add(
        "the usual call",
        partial(_results, operation.call, given),
        partial(_results, operation.reference, given),
    )
    return to


def _results(function: Callable[..., Any], given: tuple[Any, ...]) -> dict[str, Any]:
    """What a call returns, and its arguments afterwards, as tensors and numbers by name."""
    arguments = deepcopy(given)
    found = {"the result": function(*arguments)}
    for number, argument in enumerate(arguments):
        found[f"argument {number}"] = argument
    for name, value in list(found.items()):
        if isinstance(value, nn.Module):
            del found[name]
            found.update({f"{name}, {key}": tensor for key, tensor in value.state_dict().items()})
    return found


def one_line(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"
