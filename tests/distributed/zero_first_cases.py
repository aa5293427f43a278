"""What the ranks do in test_zero_first.py."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from yolov5_utils.torch_utils import torch_distributed_zero_first

PATIENCE_S = 30.0


def takes_turns(folder: str, per_host: int, timeout_s: float | None) -> list[bool]:
    """Who finds what local rank 0 of its host has written, twice in a row."""
    host, local_rank = divmod(dist.get_rank(), per_host)
    found = []
    for number in range(2):
        mark = Path(folder, f"host {host} {number}")
        with torch_distributed_zero_first(local_rank, timeout_s=timeout_s):
            found.append(mark.exists())
            if local_rank == 0:
                time.sleep(0.2)
                mark.touch()
    return found


def raises_on_rank_0(timeout_s: float | None) -> str:
    """The others go on, and so does the group."""
    rank = dist.get_rank()
    said = "went on"
    try:
        with torch_distributed_zero_first(rank, timeout_s=timeout_s):
            if rank == 0:
                raise OSError("disk full")
    except OSError as error:
        said = str(error)
    dist.barrier()
    return said


def rank_0_does_not_come() -> tuple[str, float]:
    """Within the time-out the others learn who is missing, and may try again."""
    if dist.get_rank() == 0:
        return "", 0.0
    begin = time.monotonic()
    with pytest.raises(TimeoutError) as raised, torch_distributed_zero_first(1, timeout_s=1):
        raise AssertionError("rank 0 was not waited for")
    return str(raised.value), time.monotonic() - begin


def rank_0_dies() -> str:
    """In the body."""
    with pytest.raises(TimeoutError) as raised:
        _die_in_the_body()
    return str(raised.value)


def _die_in_the_body() -> None:
    rank = dist.get_rank()
    with torch_distributed_zero_first(rank, timeout_s=2):
        if rank == 0:
            os._exit(3)
