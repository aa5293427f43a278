"""ties="torch": which of several equally small weights go, against torch.topk itself, on data full
of them; and the cases that C leaves to torch."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from yolov5_utils import _C, reference
from yolov5_utils.ops import prune as ops_prune
from yolov5_utils.ops.prune import prune_layers

from ..support import assert_same_bits
from .test_prune import ADVERSARIES, noise, pipe, pruned_by_topk

CHOSEN = (torch.float32, torch.float16, torch.bfloat16)  # the dtypes in which C knows the choice
# Around the few elements that are sorted, the blocks of a partition (128), and two of them.
SIZES = (2, 3, 4, 5, 127, 128, 129, 255, 256, 257, 258, 259, 511, 513, 1000, 5000, 40_001)
SHARES = (0.02, 0.3, 0.5, 0.98)
TIED = ("two values", "few values", "once half", "period 16", "all equal", "infinite and NaN")


def chosen(weights: Tensor, count: int) -> tuple[Tensor, list[int]]:
    untouched, result = weights.clone(), torch.empty_like(weights)
    left = _C.prune([weights], [result], [count], True)
    assert_same_bits(weights, untouched)
    return result, left


@pytest.mark.parametrize("dtype", CHOSEN, ids=str)
@pytest.mark.parametrize("name", TIED)
def test_the_choice_is_that_of_topk(level: str, name: str, dtype: torch.dtype) -> None:
    for size in SIZES:
        weights = ADVERSARIES[name](size).to(dtype)
        for count in {max(1, round(share * size)) for share in SHARES}:
            result, left = chosen(weights, count)
            if count * 64 > size:
                assert left == [], (size, count)
            if not left:
                assert_same_bits(result, pruned_by_topk(weights, count))


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_any_few_values(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(CHOSEN))
    special = [*(0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 3.0, 1e-7), *map(float, ("inf", "-inf", "nan"))]
    size = data.draw(st.integers(2, 900))
    drawn = data.draw(st.lists(st.sampled_from(special), min_size=1, max_size=40))
    weights = torch.tensor((drawn * (size // len(drawn) + 1))[:size]).to(dtype)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(size))
    weights = weights[order] if data.draw(st.booleans()) else weights
    count = data.draw(st.integers(1, size))
    result, left = chosen(weights, count)
    if not left:
        assert_same_bits(result, pruned_by_topk(weights, count))


def test_choices_differ(level: str) -> None:
    """The data above tell torch's choice from the first ones: else the tests could not fail."""
    weights = ADVERSARIES["few values"](5000).float()
    first = torch.empty_like(weights)
    _C.prune([weights], [first], [1500])
    assert not torch.equal(first, chosen(weights, 1500)[0])


LEFT = {
    "a heap in torch": (lambda: ((noise(6400) * 3).round().abs() + 1).float(), 100),
    "the depth limit": (lambda: pipe(8192).float(), 819),
    "float64": (lambda: (noise(1000) * 3).round().abs() + 1, 300),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_c_leaves_to_torch(level: str, name: str) -> None:
    make, count = LEFT[name]
    weights = make()
    assert chosen(weights, count)[1] == [0]
    model = nn.Conv2d(1, len(weights), 1, bias=False)
    model.weight = nn.Parameter(weights.view(-1, 1, 1, 1))
    theirs = copy.deepcopy(model)
    prune_layers(model, count, ties="torch")
    reference.prune_layers(theirs, count)
    assert_same_bits(model.weight.data, theirs.weight.data)


def test_another_topk_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch would choose otherwise, C is not asked to choose."""
    topk = torch.topk

    def last_ones(values: Tensor, k: int, largest: bool) -> object:
        found = topk(values.flip(0), k=k, largest=largest)
        found.indices.neg_().add_(len(values) - 1)
        return found

    ops_prune._choice_is_known.cache_clear()
    try:
        monkeypatch.setattr(torch, "topk", last_ones)
        assert not ops_prune._choice_is_known(torch.float32)
    finally:
        monkeypatch.undo()
        ops_prune._choice_is_known.cache_clear()
    assert ops_prune._choice_is_known(torch.float32)


def test_several_layers_on_several_threads(threads: int) -> None:
    model = nn.Sequential(*(nn.Conv2d(16 * i, 48, 3) for i in range(1, 9))).half().float()
    theirs = copy.deepcopy(model)
    _C.configure(parallel_bytes=0)
    prune_layers(model, 0.3, ties="torch")
    reference.prune_layers(theirs, 0.3)
    for mine, other in zip(model.parameters(), theirs.parameters(), strict=True):
        assert_same_bits(mine.data, other.data)
