"""Order among the processes of a distributed run. Must not know models or the C extension."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


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
