"""What the ranks do in test_training.py: the demo's detector, trained by several processes."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from examples.demo import learn, model
from yolov5_utils import ModelEMA, ShardedEMA

from ..support import assert_same_bits, assert_same_state
from . import models

NAMES, SIZE = ("circle", "square", "triangle"), 64


def detector() -> model.Detector:
    """Narrow, and the same on every rank."""
    return model.build(NAMES, SIZE, seed=3, width=0.25)


def steps(trained: nn.Module, bare: model.Detector, count: int) -> Iterator[None]:
    """Training steps on pictures of noise, another one for each rank."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    optimizer = torch.optim.SGD(trained.parameters(), 1e-3, momentum=0.9)
    shapes = torch.tensor([[0.0, 1, 20, 30, 20, 22], [1.0, 2, 40, 41, 30, 28]])
    trained.train()
    for _ in range(count):
        raw = trained(torch.rand(2, 3, SIZE, SIZE, generator=generator))
        learn.loss_of(bare, raw, shapes).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def under_ddp() -> int:
    """An EMA on rank 0 of the wrapped model: the bits of one process with the same states."""
    bare = detector()
    parallel = nn.parallel.DistributedDataParallel(bare)
    rank_0 = dist.get_rank() == 0
    average = ModelEMA(parallel) if rank_0 else None
    alone = detector()
    expected = ModelEMA(alone)
    for _ in steps(parallel, bare, 3):
        if average is not None:
            average.update(parallel)
            alone.load_state_dict(deepcopy(bare.state_dict()))
            expected.update(alone)
            assert_same_state(average.ema, expected.ema)
    assert average is None or list(average.ema.state_dict()) == list(bare.state_dict())
    return average.updates if average is not None else 0


def under_fsdp2() -> int:
    """Sharded on every rank: the bits of an unsharded EMA that is given the whole states."""
    sharded = detector()
    for layer in sharded.model:
        fully_shard(layer)
    fully_shard(sharded)
    alone = detector()
    average, expected = ShardedEMA(sharded), ModelEMA(alone)
    for _ in steps(sharded, sharded, 3):
        average.update(sharded)
        alone.load_state_dict(models.whole(sharded.state_dict()))
        expected.update(alone)
        found = models.whole(average.state_dict()["module"])
        for name, value in expected.ema.state_dict().items():
            assert_same_bits(found[name], value)
    assert not torch.equal(
        found["model.0.conv.weight"], detector().state_dict()["model.0.conv.weight"]
    )
    return average.updates
