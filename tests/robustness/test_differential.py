"""Random calls of every hot path beside the reference (tests/differential), some for every change;
and that a fault in C, in a result or in an exception, would be noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from yolov5_utils import _C

from ..differential.cases import CASES
from ..differential.comparison import Different, check
from ..differential.surroundings import Settings

MEMORY = 1 << 28  # bytes


@pytest.fixture
def around() -> Iterator[Settings]:
    settings = Settings()
    yield settings
    settings.leave()


def test_random_calls(rounds: Callable[[int], range], around: Settings) -> None:
    seen = {check(number, MEMORY, around) for number in rounds(150)}
    assert seen == set(CASES)


def flip(tensor: torch.Tensor) -> None:
    """One bit of the first element of memory."""
    data = tensor.detach()
    if data.numel() and data.is_contiguous():
        data.view(-1)[:1].view(torch.uint8)[0] ^= 1


def wrong_average(result: Any, average: Any, *_: Any) -> Any:
    for value in average.state_dict().values():
        if value.is_floating_point():
            flip(value)
    return result


def wrong_count(result: Any, *_: Any) -> Any:
    return (*result[:3], result[3] + 0.5, result[4] + 0.5)


def wrong_weights(result: Any, weights: Any, pruned: Any, *_: Any) -> Any:
    for tensor in pruned or ():
        flip(tensor)
    return result


def wrong_convolution(result: Any, *_: Any) -> Any:
    flip(result[0].weight)
    return result


def wrong_image(result: Any, image: Any, output: Any = None, *_: Any) -> Any:
    if output is not None and output.dim() == 4 and output.shape[0] > 0:
        flip(output)
    return result


FAULTS = {
    "ema": ("ema_update", wrong_average),
    "sparsity": ("count_module_zeros", wrong_count),
    "prune": ("prune", wrong_weights),
    "fuse": ("fuse", wrong_convolution),
    "scale_img": ("scale_img", wrong_image),
}


def find(path: str, around: Settings) -> None:
    for number in range(40):
        check(number, MEMORY, around, path)


@pytest.fixture(scope="module")
def settled() -> None:
    """What is found out about torch on first use is known before a fault is planted."""
    settings = Settings()
    for path in FAULTS:
        find(path, settings)
    settings.leave()


@pytest.mark.parametrize("path", FAULTS)
def test_a_wrong_bit_is_noticed(
    path: str, monkeypatch: pytest.MonkeyPatch, settled: None, around: Settings
) -> None:
    name, fault = FAULTS[path]
    right = getattr(_C, name)
    monkeypatch.setattr(_C, name, lambda *given: fault(right(*given), *given))
    with pytest.raises(Different):
        find(path, around)


@pytest.mark.parametrize("path", FAULTS)
def test_a_wrong_exception_is_noticed(
    path: str, monkeypatch: pytest.MonkeyPatch, settled: None, around: Settings
) -> None:
    def raise_otherwise(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(_C, FAULTS[path][0], raise_otherwise)
    with pytest.raises(Different, match="ZeroDivisionError"):
        find(path, around)
