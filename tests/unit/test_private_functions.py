"""yolov5_utils._C's own functions, called with what its Python side never passes: results that
share memory with inputs or are of another kind, integers that are none, types of few bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolov5_utils import _C, _native, reference
from yolov5_utils.torch_utils import sparsity

from ..robustness.stepping import Interrupt, raising_after
from ..support import meanwhile

SMALL = [
    name
    for name in (f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8))
    if hasattr(torch, name)
]


def numbers(count: int) -> Tensor:
    return torch.arange(float(count))


def overlapping() -> dict[str, Callable[[], Any]]:
    block, image = numbers(64), torch.rand(1, 1, 8, 8)
    half = image[:, :, :4].contiguous()
    return {
        "itself": lambda: _C.prune([block], [block], [3]),
        "shifted": lambda: _C.prune([block[:32]], [block[16:48]], [3]),
        "another layer": lambda: _C.prune(
            [block[:8], block[8:16]], [numbers(8), block[:8]], [1, 1]
        ),
        "two results": lambda: _C.prune([numbers(8), numbers(8)], [block[:8], block[4:12]], [1, 1]),
        "image": lambda: _C.scale_img(image, image, (4, 4), 0),
        "part of it": lambda: _C.scale_img(half, half[:, :, :2], (2, 8), 0),
    }


@pytest.mark.parametrize("name", overlapping())
def test_results_apart_from_inputs(name: str) -> None:
    with pytest.raises(ValueError, match="shares memory"):
        overlapping()[name]()


def scaled(size: Any, variant: Any = 0) -> Any:
    return _C.scale_img(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 4, 4), size, variant)


WRONG: dict[str, tuple[Callable[[], Any], type[Exception] | tuple[type[Exception], ...]]] = {
    "fewer elements": (lambda: _C.prune([numbers(8)], [numbers(7)], [1]), ValueError),
    "another type": (lambda: _C.prune([numbers(8)], [numbers(8).double()], [1]), ValueError),
    "integers": (lambda: _C.prune([numbers(8).long()], [numbers(8).long()], [1]), _C.Unsupported),
    "with gaps": (lambda: _C.prune([numbers(8)], [numbers(16)[::2]], [1]), _C.Unsupported),
    "no tensor": (lambda: _C.prune([numbers(8)], [[0.0] * 8], [1]), _C.Unsupported),
    "no integer": (lambda: _C.prune([numbers(8)], [numbers(8)], [1.0]), ValueError),
    "too many": (lambda: _C.prune([numbers(8)], [numbers(8)], [9]), ValueError),
    "no list": (lambda: _C.prune((numbers(8),), [numbers(8)], [1]), TypeError),
    "no list of results": (lambda: _C.prune([numbers(8)], (numbers(8),), [1]), TypeError),
    "no list of counts": (lambda: _C.prune([numbers(8)], [numbers(8)], (1,)), TypeError),
    "another length": (lambda: _C.prune([numbers(8)], [], [1]), ValueError),
    "another number of counts": (lambda: _C.prune([numbers(8)], [numbers(8)], []), ValueError),
    "no truth": (lambda: _C.prune([], [], [], numbers(2)), RuntimeError),
    **{
        f"size of {size}": (lambda size=size: scaled(size), TypeError)
        for size in ((4.0, 4), [4, 4], (4,), (4, 1 << 80))
    },
    "no size": (lambda: _C.scale_img(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 4, 4)), TypeError),
    "no rows": (lambda: scaled((0, 4)), ValueError),
    "no columns": (lambda: scaled((4, 0)), ValueError),
    "variant that is none": (lambda: scaled((4, 4), "0"), TypeError),
    **{
        f"variant {number}": (lambda number=number: scaled((4, 4), number), ValueError)
        for number in (-1, 1 << 15, 1 << 80)
    },
    "rows without end": (lambda: scaled(((1 << 30) + 1, 4)), _C.Unsupported),
    "columns without end": (lambda: scaled((4, (1 << 30) + 1)), _C.Unsupported),
    "output of another batch": (
        lambda: _C.scale_img(torch.rand(1, 1, 8, 8), torch.rand(2, 1, 4, 4), (4, 4), 0),
        ValueError,
    ),
    "output of other channels": (
        lambda: _C.scale_img(torch.rand(1, 1, 8, 8), torch.rand(1, 2, 4, 4), (4, 4), 0),
        ValueError,
    ),
    "output of three dimensions": (
        lambda: _C.scale_img(torch.rand(1, 1, 8, 8), torch.rand(1, 4, 4), (4, 4), 0),
        ValueError,
    ),
    "output of doubles": (
        lambda: _C.scale_img(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 4, 4).double(), (4, 4), 0),
        ValueError,
    ),
    "sums on the CPU": (lambda: _C.sum_zeros(numbers(3).long(), torch.ones(())), ValueError),
    "done, no list": (
        lambda: _C.ema_update(nn.Linear(1, 1), nn.Linear(1, 1), 0.5, ()),
        TypeError,
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name: str) -> None:
    call, error = WRONG[name]
    with pytest.raises(error):
        call()


def test_done_says_what_happened() -> None:
    average, source = nn.Linear(3, 3), nn.Linear(3, 3)
    done: list[bool] = []
    with pytest.raises(KeyError):
        _C.ema_update(average, nn.Identity(), 0.5, done)
    assert done == []
    _C.ema_update(average, source, 0.5, done)
    assert done == [True]


@pytest.mark.parametrize("name", SMALL or ["none"])
def test_types_of_fewer_bits(name: str) -> None:
    """torch compares none of them with zero; in memory they look like whole bytes."""
    if not SMALL:
        pytest.skip("this torch has no such types")
    try:
        tensor = torch.zeros(16, dtype=torch.uint8).view(getattr(torch, name))
    except (RuntimeError, NotImplementedError) as problem:
        pytest.skip(f"this torch makes none: {problem}")
    model = nn.Module()
    model.weight = nn.Parameter(tensor, requires_grad=False)
    with pytest.raises(_native.Unsupported, match="less than 8 bits"):
        _C.count_zeros(tensor)
    with pytest.raises(_native.Unsupported, match="less than 8 bits"):
        _C.count_module_zeros(model)
    outcomes = []
    for call in (reference.sparsity, sparsity):
        try:
            outcomes.append(call(model).item())
        except (RuntimeError, NotImplementedError) as error:
            outcomes.append(type(error))
    assert outcomes[0] == outcomes[1]


def test_a_huge_skip_ends_with_a_signal() -> None:
    generator = torch.Generator()
    before = generator.get_state()
    with pytest.raises(Interrupt), raising_after(0.05):
        _C.skip_random(generator, (1 << 64) - 1)
    assert torch.equal(generator.get_state(), before)


def test_memory_stays_while_the_gil_is_released() -> None:
    """Another thread takes the memory of every tensor in sight away while C works on it."""
    _C.configure(gil_bytes=0)
    average, source = nn.Linear(600, 600), nn.Linear(600, 600)

    def take_away() -> None:
        for module in (average, source):
            for parameter in module.parameters():
                parameter.data = torch.rand(parameter.shape)

    with meanwhile(take_away):
        for _ in range(300):
            _C.ema_update(average, source, 0.5)
            _C.count_module_zeros(source)
