"""ShardedEMA on two and four ranks: the bits of an unsharded ModelEMA, and no communication."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .models import WAYS
from .ranks import Ranks

pytestmark = pytest.mark.slow
Group = Callable[[int], Ranks]
IN_C = {"C": 6, "CUDA": 0, "torch": 0}  # three updates, and the twin's


@pytest.mark.parametrize("way", WAYS)
def test_the_bits_of_an_unsharded_average(ranks: Group, way: str) -> None:
    assert ranks(2).run("sharded_cases.follows_its_twin", way) == [IN_C] * 2


@pytest.mark.parametrize(
    "case",
    [
        *("float32_average_of_bfloat16", "on_another_device", "sharded_after_the_copy"),
        *("wrapped_otherwise", "no_collective", "attributes", "asked_for_its_state"),
    ],
)
def test_on_two_ranks(ranks: Group, case: str) -> None:
    ranks(2).run(f"sharded_cases.{case}")


@pytest.mark.parametrize("way", WAYS)
def test_swap(ranks: Group, way: str) -> None:
    ranks(2).run("sharded_cases.swaps", way)


def test_the_whole_average_is_gathered_on_rank_0(ranks: Group) -> None:
    assert ranks(2).run("sharded_cases.gathered") == [[13, 13], [0, 13]]


SHARDED = "(2, 2) as (Shard(dim=0),) over ranks [0, 1]"
REFUSED = {
    "not sharded": f"scale is a plain tensor (2, 2) in the model, {SHARDED}",
    "another mesh": "scale is (2, 2) as (Replicate(), Shard(dim=0)) over ranks [[0], [1]] in the "
    f"model, {SHARDED}",
    "another placement": "scale is (2, 2) as (Shard(dim=1),) over ranks [0, 1] in the model, "
    + SHARDED,
    "another shape": "conv.weight is (8, 3, 3, 3) as (Shard(dim=0),) over ranks [0, 1] in the "
    "model, (7, 3, 3, 3) as (Shard(dim=0),) over ranks [0, 1]",
}


@pytest.mark.parametrize("change", REFUSED)
def test_another_layout_is_an_error_on_every_rank(ranks: Group, change: str) -> None:
    """With the entry, the rank and both layouts."""
    for rank, said in enumerate(ranks(2).run("sharded_cases.refuses", change)):
        expected = f"RuntimeError: ShardedEMA: rank {rank}: {REFUSED[change]} in the average"
        assert said == [expected] * 2


def test_a_missing_entry_is_a_key_error(ranks: Group) -> None:
    for said in ranks(2).run("sharded_cases.refuses", "a name less"):
        assert said == ["KeyError: 'scale'"] * 2


DISAGREEMENTS = {
    "other widths": "RuntimeError: ShardedEMA: the models differ: rank 0 has one.weight: a plain "
    "tensor (1, 7), torch.float32; rank 1 has one.weight: a plain tensor (2, 7), torch.float32",
    "other dtypes": "RuntimeError: ShardedEMA: the models differ: rank 0 has one.weight: a plain "
    "tensor (1, 7), torch.float32; rank 1 has one.weight: a plain tensor (1, 7), torch.float64",
    "one entry more": "RuntimeError: ShardedEMA: the models differ: rank 0 has conv.weight: "
    "(7, 3, 3, 3) as (Shard(dim=0),) over ranks [0, 1], torch.float32; rank 1 has zoo: a plain "
    "tensor (1,), torch.float32",
    "partial sums": "RuntimeError: ShardedEMA: anchors is (2,) as (Partial(sum),) over ranks "
    "[0, 1]: sums, no elements",
    "an extra state": "TypeError: ShardedEMA: more._extra_state is no tensor but a str",
}


@pytest.mark.parametrize("kind", DISAGREEMENTS)
def test_models_that_have_no_common_average(ranks: Group, kind: str) -> None:
    assert ranks(2).run("sharded_cases.made_of", kind) == [DISAGREEMENTS[kind]] * 2


def test_who_does_not_come_is_named(ranks: Group) -> None:
    said, _ = ranks(2).run("sharded_cases.made_on_rank_0_alone")
    assert said == "ShardedEMA made: rank 0 waited 1 s, and of 2 ranks these have not come: 1"


def test_model_ema_names_the_one_for_sharded_models(ranks: Group) -> None:
    said = "ModelEMA needs a whole model: use yolov5_utils.ShardedEMA(model)"
    assert ranks(2).run("sharded_cases.model_ema_of_a_sharded_model") == [said] * 2


@pytest.mark.parametrize(
    ("case", "arguments"),
    [
        ("follows_its_twin", ("fsdp", "part")),
        ("no_collective", ("collective",)),
        ("swaps", ("fsdp", "swap")),
    ],
)
def test_a_planted_fault_is_found(ranks: Group, case: str, arguments: tuple[str, ...]) -> None:
    ranks(2).run("sharded_cases.found", case, *arguments)


@pytest.mark.parametrize("way", ("fsdp", "hybrid"))
def test_on_four_ranks(ranks: Group, way: str) -> None:
    """Of some entries two and three ranks have no part."""
    assert ranks(4).run("sharded_cases.follows_its_twin", way) == [IN_C] * 4
