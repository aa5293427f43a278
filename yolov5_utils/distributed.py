"""The processes of a distributed run: which one this is, their order, one model among them.

Must not know the C extension.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from .helpers.device import require

_WITHOUT_LAUNCHER = {"LOCAL_RANK": -1, "RANK": -1, "WORLD_SIZE": 1}


def launched_as(name: str) -> int:
    """What torchrun says of this process: its LOCAL_RANK, its RANK (-1 without) or WORLD_SIZE (1).

    Read from the environment now. KeyError for another name, ValueError for what is no number.
    Source: YOLOv5 6.2, which reads them when torch_utils.py is imported.
    """
    return int(os.environ.get(name, _WITHOUT_LAUNCHER[name]))


def smart_DDP(model: nn.Module) -> nn.parallel.DistributedDataParallel:
    """`model`, which is on GPU number LOCAL_RANK, wrapped for training by all processes.

    Its graph must be the same in every step. AssertionError on torch 1.12.0, with which YOLOv5 does
    not train this way; torch's own errors without a process group, and for a model that is not on
    that GPU. Source: YOLOv5 6.2.
    """
    require(
        torch.__version__ != "1.12.0",
        "torch==1.12.0 cannot train with DDP, allowed is any other release; "
        "see https://github.com/ultralytics/yolov5/issues/8395",
    )
    here = launched_as("LOCAL_RANK")
    return nn.parallel.DistributedDataParallel(
        model, device_ids=[here], output_device=here, static_graph=True
    )


@contextmanager
def torch_distributed_zero_first(local_rank: int) -> Iterator[None]:
    """Let local rank 0 run the body of the `with` first, the other ranks once it is done.

    `local_rank` -1 means not distributed: the body simply runs. Otherwise the default process
    group must exist (any backend), and each of its ranks must enter once. When rank 0's body
    raises, the other ranks are let go all the same and the exception passes through.
    Source: YOLOv5 5.0, where a raising body leaves the other ranks waiting.
    """
    if local_rank not in (-1, 0):
        _barrier(local_rank)
    try:
        yield
    finally:
        if local_rank == 0:
            _barrier(local_rank)


def _barrier(local_rank: int) -> None:
    """Wait for all ranks. Only NCCL needs to be told the GPU, and only it takes one."""
    if dist.get_backend() == "nccl":
        dist.barrier(device_ids=[local_rank])
    else:
        dist.barrier()
