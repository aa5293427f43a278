"""What the ranks do in test_checkpoints.py."""

from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from yolov5_utils.distributed import layouts

from ..support import assert_same_bits
from . import models

FULL, SHARDED, UPDATES = "full.pt", "sharded", 3


def trained(way: str) -> tuple[nn.Module, Any]:
    model = models.shard(models.net(1), way)
    average = models.average_of(model)
    for seed in range(UPDATES):
        models.fill(model, seed)
        average.update(model)
    return model, average


def assert_whole(average: Any, expected: dict[str, Tensor]) -> None:
    found = models.whole(average.state_dict()["module"])
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert_same_bits(found[name], value)


def save(folder: str) -> None:
    """Both forms of a checkpoint: sharded, and whole as a plain YOLOv5 has it."""
    _, average = trained("fsdp")
    dcp.save({"ema": average}, checkpoint_id=Path(folder, SHARDED))
    whole = average.full_state_dict()
    if dist.get_rank() == 0:
        torch.save({"module": whole, "updates": average.updates}, Path(folder, FULL))
    dist.barrier()


def load(folder: str, way: str, form: str) -> None:
    """Into another model on these ranks."""
    average = models.average_of(models.shard(models.net(2), way))
    expected = torch.load(Path(folder, FULL), weights_only=True)
    if form == SHARDED:
        dcp.load({"ema": average}, checkpoint_id=Path(folder, SHARDED))
    else:
        average.load_state_dict(expected)
    assert average.updates == UPDATES
    assert_whole(average, expected["module"])
    now = layouts.parts(average.state_dict()["module"].values())
    assert all(map(operator.is_, now, average.ema._buffers.values()))  # what updates write to


def load_of_another_model(folder: str, form: str) -> str:
    """Refused on every rank, with nothing changed."""
    model = models.net(2)
    model.conv = nn.Conv2d(3, 8, 3)
    if form == "a name more":
        model = models.net(2)
        model.more = nn.Linear(2, 2)
    average = models.average_of(models.shard(model, "fsdp"))
    kept = models.snapshot(average.state_dict()["module"])
    state = torch.load(Path(folder, FULL), weights_only=True)
    with pytest.raises(RuntimeError) as raised:
        average.load_state_dict(state)
    with pytest.raises(CheckpointException, match=r"more\.weight|mismatch"):
        dcp.load({"ema": average}, checkpoint_id=Path(folder, SHARDED))
    models.assert_parts(average.state_dict()["module"], kept)
    assert average.updates == 0
    return str(raised.value)


def load_that_fails_on_rank_1(folder: str) -> str:
    average = models.average_of(models.shard(models.net(2), "fsdp"))
    kept = models.snapshot(average.state_dict()["module"])
    state = torch.load(Path(folder, FULL), weights_only=True)
    if dist.get_rank() == 1:
        del state["module"]["scale"]
    with pytest.raises(RuntimeError) as raised:
        average.load_state_dict(state)
    models.assert_parts(average.state_dict()["module"], kept)
    return str(raised.value)


def dies_while_saving(folder: str) -> None:
    """Rank 1 is gone in the middle; the other gets an error, and no wait."""
    _, average = trained("fsdp")

    class Dying(FileSystemWriter):
        def write_data(self, plan: Any, planner: Any) -> Any:
            if dist.get_rank() == 1:
                os._exit(3)
            return super().write_data(plan, planner)

    with pytest.raises(RuntimeError, match="gloo"):
        dcp.save({"ema": average}, storage_writer=Dying(folder))
