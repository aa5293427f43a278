"""Checkpoints of ShardedEMA: saved on four ranks, loaded on two and on one, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from yolov5_utils import ModelEMA

from ..support import assert_same_bits
from .checkpoint_cases import FULL, SHARDED, UPDATES, assert_whole
from .models import average_of, net
from .ranks import Ranks

pytestmark = pytest.mark.slow
Group = Callable[[int], Ranks]


@pytest.fixture(scope="module")
def saved(ranks: Group, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What four ranks have saved."""
    folder = tmp_path_factory.mktemp("saved")
    ranks(4).run("checkpoint_cases.save", str(folder))
    return folder


@pytest.mark.parametrize("form", (SHARDED, FULL))
@pytest.mark.parametrize("way", ("fsdp", "hybrid", "columns", "plain"))
def test_loaded_on_two_ranks(ranks: Group, saved: Path, way: str, form: str) -> None:
    ranks(2).run("checkpoint_cases.load", str(saved), way, form)


def test_loaded_in_one_process(saved: Path) -> None:
    """Which has no process group."""
    average = average_of(net(2))
    dcp.load({"ema": average}, checkpoint_id=saved / SHARDED, no_dist=True)
    assert average.updates == UPDATES
    assert_whole(average, torch.load(saved / FULL, weights_only=True)["module"])


def test_loaded_into_a_model_ema_and_back(ranks: Group, saved: Path, tmp_path: Path) -> None:
    state = torch.load(saved / FULL, weights_only=True)
    plain = ModelEMA(net(2), updates=state["updates"])
    plain.ema.load_state_dict(state["module"])
    for name, value in plain.ema.state_dict().items():
        assert_same_bits(value, state["module"][name])
    with torch.no_grad():
        plain.ema.scale.add_(1)
    torch.save({"module": plain.ema.state_dict(), "updates": plain.updates}, tmp_path / FULL)
    ranks(2).run("checkpoint_cases.load", str(tmp_path), "fsdp", FULL)


OTHERS = {
    "another shape": "conv.weight is a plain tensor (7, 3, 3, 3) in the checkpoint, (8, 3, 3, 3) "
    "as (Shard(dim=0),) over ranks [0, 1] in the average",
    "a name more": "more.weight is only in the average",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_models_checkpoint_is_refused(ranks: Group, saved: Path, kind: str) -> None:
    said = f"ShardedEMA.load_state_dict: {OTHERS[kind]}"
    assert ranks(2).run("checkpoint_cases.load_of_another_model", str(saved), kind) == [said] * 2


def test_what_one_rank_cannot_take_no_rank_takes(ranks: Group, saved: Path) -> None:
    said = "ShardedEMA.load_state_dict: rank 1: scale is only in the average"
    assert ranks(2).run("checkpoint_cases.load_that_fails_on_rank_1", str(saved)) == [said] * 2


def test_a_rank_that_dies_during_a_save(ranks: Group, saved: Path, tmp_path: Path) -> None:
    """The new checkpoint does not count, the one before it loads."""
    with pytest.raises(AssertionError, match="rank 1: ") as raised:
        ranks(2).run("checkpoint_cases.dies_while_saving", str(tmp_path / "new"))
    assert "rank 0: " not in str(raised.value)
    assert not (tmp_path / "new" / ".metadata").exists()
    ranks(2).run("checkpoint_cases.load", str(saved), "fsdp", SHARDED)
