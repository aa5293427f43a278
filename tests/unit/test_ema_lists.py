"""The EMA on lists of tensors, for GPUs without the CUDA library, here on tensors of the CPU: the
reference's bits, and the reference itself wherever that is not sure."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from yolov5_utils import reference
from yolov5_utils.ops import ema_lists

from ..support import (
    DECAY,
    FLOATING,
    Holder,
    Watch,
    assert_same_state,
    every_pair_of_types,
    values,
)
from .ema_models import Net, trained

SIZES = (0, 1, 7, 64, 1000)


def pairs_of(average: nn.Module, source: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return reference.floating_pairs(average, source)


def check(average: nn.Module, source: nn.Module, decay: float = DECAY) -> None:
    """Both ways on copies of independent pairs."""
    expected = copy.deepcopy(average)
    reference.ema_update(expected, source, decay)
    with torch.no_grad():
        pairs = pairs_of(average, source)
        assert ema_lists.are_independent(pairs, decay)
        ema_lists.update_pairs(pairs, decay)
    assert_same_state(average, expected)


@every_pair_of_types
def test_dtypes(average_dtype: torch.dtype, source_dtype: torch.dtype) -> None:
    check(
        Holder(*(values(size, average_dtype, size) for size in SIZES)),
        Holder(*(values(size, source_dtype, size + 1) for size in SIZES)),
    )


@pytest.mark.parametrize("decay", [0.0, 1.0, 1, 0.5, 1e-50, float("inf"), float("nan"), -0.5])
def test_decays(decay: float) -> None:
    for dtype in FLOATING:
        check(Holder(values(501, dtype, 1)), Holder(values(501, dtype, 2)), decay)


def test_every_kind_of_entry_and_layout() -> None:
    check(Net(), trained(Net(1)))
    block = values(6000, torch.float32, 1).view(10, 20, 5, 6)
    other = values(6000, torch.float32, 2).view(10, 20, 5, 6)
    check(Holder(block.clone(), block[:, ::2].clone()), Holder(other, other[:, ::2]))
    check(Holder(block.contiguous(memory_format=torch.channels_last)), Holder(other))


def test_turns_keep_memory_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ema_lists, "_TURN_BYTES", 4000)
    sizes, taken = (1001, 5, 5, 300, 700, 2000, 1), []
    multiply = torch._foreach_mul
    monkeypatch.setattr(
        torch, "_foreach_mul", lambda *a: taken.append([t.numel() for t in a[0]]) or multiply(*a)
    )
    averages = [values(size, torch.float32, size) for size in sizes]
    check(Holder(*averages), Holder(*(values(size, torch.float32, 3) for size in sizes)))
    assert taken == [[1001], [5, 5, 300, 700], [2000], [1]]


class Mine(Tensor):
    """A subclass that adds nothing."""


TEN, TWENTY = torch.rand(10), torch.rand(20)
ODD: dict[str, tuple[list[Tensor], list[Tensor]]] = {
    "tied": ([TEN, TEN], [torch.rand(10), torch.rand(10)]),
    "overlapping": ([TEN[:6], TEN[5:]], [torch.rand(6), torch.rand(5)]),
    "average_of_itself": ([TEN], [TEN]),
    "average_inside_a_source": ([torch.rand(20), TWENTY[4:6]], [TWENTY, torch.rand(2)]),
    "another_shape": ([torch.rand(3, 4)], [torch.rand(4)]),
    "expanded": ([torch.rand(4).expand(3, 4)], [torch.rand(3, 4)]),
    "subclass": ([torch.rand(3)], [torch.rand(3).as_subclass(Mine)]),
    "not_dense": ([torch.rand(3, 4)], [torch.rand(3, 4).to_sparse()]),
}


@pytest.mark.parametrize("case", ODD)
def test_the_reference_runs_where_the_order_may_show(case: str) -> None:
    pairs = list(zip(*ODD[case], strict=True))
    assert not ema_lists.are_independent(pairs, DECAY)


@pytest.mark.parametrize("decay", [1e39, -1e39, 10**40, 3.5e38])
def test_scalars_beyond_float32_are_for_the_reference(decay: float) -> None:
    pairs = [(torch.rand(3), torch.rand(3))]
    assert not ema_lists.are_independent(pairs, decay)
    assert ema_lists.are_independent(pairs, 3.4e38)


def test_disjoint_parts_of_one_storage_are_independent() -> None:
    storage = torch.rand(100)
    pairs = [(storage[i : i + 10], storage[50 + i : 60 + i]) for i in range(0, 50, 10)]
    assert ema_lists.are_independent(pairs, DECAY)
    read_twice = torch.rand(10)
    assert ema_lists.are_independent([(torch.rand(10), read_twice) for _ in range(3)], DECAY)


def test_a_mode_sees_the_originals_operations() -> None:
    average, source = Net(), Net(1)
    with Watch() as watch:
        ema_lists.update(average, source, DECAY)
    assert not any(name.startswith("_foreach") for name in watch.seen)
    assert {"mul_", "add_"} <= {name.strip("_") + "_" for name in watch.seen} | set(watch.seen)


def test_ema_of_the_cpu_takes_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ema_lists, "update_pairs", None)
    average, expected = Net(), Net()
    ema_lists.update(average, trained(Net(1)), DECAY)
    reference.ema_update(expected, trained(Net(1)), DECAY)
    assert_same_state(average, expected)
    with pytest.raises(KeyError, match="anchors"):
        ema_lists.update(average, nn.Identity(), DECAY)
