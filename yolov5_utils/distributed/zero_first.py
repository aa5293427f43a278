"""torch_distributed_zero_first: local rank 0 does something once, for the others of its machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from .launched import launched_as
from .meeting import meet


@contextmanager
def torch_distributed_zero_first(
    local_rank: int, *, timeout_s: float | None = None
) -> Iterator[None]:
    """Let local rank 0 run the body of the `with` first, the other ranks once it is done.

    `local_rank` -1 means not distributed: the body simply runs, as it does in a process that is
    alone and has no process group. Otherwise each rank of the default group, whatever its backend,
    must enter once; on several machines local rank 0 of each runs first. When rank 0's body raises,
    the other ranks are let go all the same and the exception passes through.

    Without `timeout_s` ranks wait as long as the group's own time-out allows. With it, and then on
    every rank, they wait so many seconds: TimeoutError names the ranks that have not come.
    Source: YOLOv5 5.0, where a raising body leaves the other ranks waiting.

    >>> with torch_distributed_zero_first(-1):
    ...     print("downloaded once")
    downloaded once
    """
    if local_rank not in (-1, 0):
        _wait_for_all(local_rank, timeout_s)
    try:
        yield
    finally:
        if local_rank == 0:
            _wait_for_all(local_rank, timeout_s)


def _wait_for_all(local_rank: int, timeout_s: float | None) -> None:
    """Only NCCL needs to be told the GPU, and only it takes one."""
    if _is_alone():
        return
    if timeout_s is not None:
        meet("torch_distributed_zero_first", range(dist.get_world_size()), timeout_s=timeout_s)
    elif dist.get_backend() == "nccl":
        dist.barrier(device_ids=[local_rank])
    else:
        dist.barrier()


def _is_alone() -> bool:
    """Where torchrun started others, a missing group is their caller's mistake: torch says so."""
    ready = dist.is_available() and dist.is_initialized()
    return not ready and launched_as("WORLD_SIZE") == 1
