"""torch_distributed_zero_first: two real gloo processes, and the calls NCCL would get."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from torch import nn

import yolov5_utils
from yolov5_utils import probe
from yolov5_utils.torch_utils import torch_distributed_zero_first as zero_first

from ..support import python

TIMEOUT_S = 120

# Run by each process. Rank 0 takes its time in the body; rank 1 must find its traces complete.
PROGRAM = """
import sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from yolov5_utils.torch_utils import torch_distributed_zero_first

rank, folder, fails = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "fails"
dist.init_process_group(
    "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2,
    timeout=timedelta(seconds=60),
)
try:
    with torch_distributed_zero_first(rank):
        if rank == 0:
            time.sleep(0.5)
            (folder / "download").write_text("complete")
            if fails:
                raise OSError("disk full")
        else:
            print((folder / "download").read_text())
except OSError as error:
    print(error)
dist.barrier()  # the group is still usable
print("after")
dist.destroy_process_group()
"""

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch is without gloo"
)


def run_two_ranks(folder: Path, mode: str) -> list[list[str]]:
    """What each rank printed, line by line; fails where one does not end well or in time."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo")}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(folder), mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    said = []
    try:
        for rank in ranks:
            out, err = rank.communicate(timeout=TIMEOUT_S)
            assert rank.returncode == 0, err
            said.append(out.splitlines())
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return said


@needs_gloo
def test_other_ranks_run_after_rank_zero(tmp_path):
    assert run_two_ranks(tmp_path, "works") == [["after"], ["complete", "after"]]


@needs_gloo
def test_other_ranks_are_let_go_when_rank_zero_raises(tmp_path):
    assert run_two_ranks(tmp_path, "fails") == [["disk full", "after"], ["complete", "after"]]


@pytest.fixture
def calls(monkeypatch):
    """A process group of the backend named in `calls.backend` that only notes what it is asked."""

    class Calls(list):
        backend = "nccl"

    noted = Calls()
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: noted.backend)
    monkeypatch.setattr(dist, "barrier", lambda **options: noted.append(("barrier", options)))
    return noted


@pytest.mark.parametrize(
    ("backend", "options"),
    [("nccl", {"device_ids": [3]}), ("gloo", {}), ("mpi", {}), ("cpu:gloo,cuda:nccl", {})],
)
def test_only_nccl_is_told_the_device(calls, backend, options):
    calls.backend = backend
    with zero_first(3):
        calls.append("body")
    assert calls == [("barrier", options), "body"]


def test_rank_zero_opens_the_barrier_after_the_body(calls):
    with zero_first(0):
        calls.append("body")
    assert calls == ["body", ("barrier", {"device_ids": [0]})]


def test_rank_zero_opens_the_barrier_when_the_body_raises(calls):
    with pytest.raises(KeyError, match="why"), zero_first(0):
        raise KeyError("why")
    assert calls == [("barrier", {"device_ids": [0]})]


def test_without_distribution_nothing_is_asked(monkeypatch):
    for name in ("get_backend", "barrier", "is_initialized"):
        monkeypatch.setattr(dist, name, None)
    body = []
    with zero_first(-1):
        body.append("ran")
    assert body == ["ran"]


def test_a_process_that_is_alone_runs_the_body(monkeypatch):
    """Without a process group; where torchrun started others, its lack is an error."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    body = []
    for local_rank in (0, 1):
        with zero_first(local_rank):
            body.append(local_rank)
    assert body == [0, 1]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises((ValueError, RuntimeError), match="process group"), zero_first(1):
        body.append("too early")
    assert body == [0, 1]


def test_works_as_a_decorator(calls):
    @zero_first(-1)
    def body():
        return "ran"

    assert body() == "ran"


def test_sharded_ema_says_what_it_needs():
    """On an older torch in one sentence; the package imports it anyhow."""
    model = nn.Linear(2, 2)
    if probe.release() < (2, 7) or not dist.is_available():
        with pytest.raises(RuntimeError, match="needs torch 2.7 or later"):
            yolov5_utils.ShardedEMA(model)
    else:
        average = yolov5_utils.ShardedEMA(model)
        average.update(model)
        assert average.state_dict()["updates"] == 1


@pytest.mark.skipif(probe.release() < (2, 7), reason="this torch has no sharded tensors")
def test_an_old_torch_is_told(monkeypatch):
    from yolov5_utils.distributed import layouts

    layouts._tensors.cache_clear()
    monkeypatch.setitem(sys.modules, "torch.distributed.tensor", None)
    try:
        with pytest.raises(RuntimeError, match=r"ShardedEMA needs torch 2\.7 or later with"):
            yolov5_utils.ShardedEMA(nn.Linear(2, 2))
    finally:
        layouts._tensors.cache_clear()


def test_the_package_imports_no_sharded_tensors():
    """They take a third of a second, and an older torch has none."""
    ran = python("-c", "import sys, yolov5_utils.torch_utils as t; print(*sys.modules)")
    assert "yolov5_utils.distributed.sharded_ema" in ran.stdout.split()
    assert "torch.distributed.tensor" not in ran.stdout.split()


ALONE = """
import sys
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from yolov5_utils import ShardedEMA

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
model = fully_shard(nn.Linear(3, 2))
average = ShardedEMA(model)
dist.destroy_process_group()
average.update(model)  # needs nobody
for call in (lambda: ShardedEMA(model), average.full_state_dict):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""


@needs_gloo
@pytest.mark.skipif(probe.release() < (2, 7), reason="this torch has no sharded tensors")
def test_without_a_process_group_any_more(tmp_path):
    ran = python("-c", ALONE, tmp_path / "store")
    said = "ShardedEMA: a sharded model needs torch.distributed's process group"
    assert (ran.stdout.splitlines(), ran.returncode) == ([said] * 2, 0), ran.stderr
