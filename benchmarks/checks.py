"""What is checked before timing: the bits, and that a figure is one of the backend it names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from torch import Tensor

from yolov5_utils import bits
from yolov5_utils.ops import OPERATIONS


@contextlib.contextmanager
def ran(operation: str, backend: str = "C", calls: int = 1) -> Iterator[None]:
    """AssertionError where not all of so many calls meanwhile took the backend."""
    path = OPERATIONS[operation]
    before = path.counted()[backend]
    yield
    assert path.counted()[backend] == before + calls, f"{operation}: not {backend}: {path.reasons}"


def same_bits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """AssertionError where a tensor of `expected` has other bits in `found`."""
    for key, value in expected.items():
        assert bits.same(found[key], value), f"{key}: bits differ from the original's"
