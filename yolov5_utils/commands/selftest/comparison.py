"""One check of the self-test: calls of a hot path, each beside the original's operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...ops import OPERATIONS

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per element


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
            same = same_bits if isinstance(value, Tensor) else lambda a, b: a == b
            if not same(found[name], value):
                raise AssertionError(f"{what}: {name} differs from the original's")
        self.equal += 1

    def __str__(self) -> str:
        notes = [f"{count} left to torch ({why})" for why, count in self.left.items()]
        notes += [
            f"{count} that the original cannot do either ({why})"
            for why, count in self.impossible.items()
        ]
        return "; ".join([f"{self.equal} calls equal"] * bool(self.equal) + notes)


def one_line(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    """Equal dtype, shape and bits; one NaN is as good as another."""
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return False
    integers = _BITS[ours.element_size()]
    equal = ours.contiguous().view(integers) == theirs.contiguous().view(integers)
    return bool((equal | (ours.isnan() & theirs.isnan())).all())
