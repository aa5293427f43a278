"""YOLOV5_UTILS_VERBOSE=1: the line at the end of a process, and when there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from yolov5_utils import __version__

from ..support import client_text
from .command_line import OURS, ROOT, STOCK, Result, run

ON = {"YOLOV5_UTILS_VERBOSE": "1", "PYTHONPATH": str(ROOT)}
START = f"yolov5_utils {__version__}:"
TRAINING = """
import torch
from utils.torch_utils import ModelEMA, sparsity
model = torch.nn.Linear(3, 4)
ema = ModelEMA(model)
for _ in range(3):
    ema.update(model)
ema.decay = lambda updates: torch.tensor(0.5)
ema.update(model)
sparsity(model)
"""
OWN = "from yolov5_utils import torch_utils as t; t.sparsity(t.nn.BatchNorm2d(3))"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "torch_utils.py").write_text(client_text())
    (tmp_path / "train.py").write_text(TRAINING)
    return tmp_path


def last_line(done: Result) -> str:
    lines = [line for line in done.stderr.splitlines() if ": calls: " in line]
    assert len(lines) <= 1, done.stderr
    return lines[0] if lines else ""


def test_calls_by_hot_path_and_backend_and_each_reason(folder: Path) -> None:
    done = run(OURS, "train.py", folder=folder, **ON)
    reason = "decay: not a Python float (1)"
    assert last_line(done) == f"{START} calls: ema C 3, torch 1: {reason}; sparsity C 1", done
    assert last_line(run(OURS, "train.py", folder=folder)) == ""


def test_each_rank_says_its_own(folder: Path) -> None:
    """By the variable that torchrun sets, and also after an exception."""
    (folder / "train.py").write_text(f"{TRAINING}\nraise SystemExit(3)\n")
    for rank in ("0", "5"):
        done = run(OURS, "train.py", folder=folder, RANK=rank, **ON)
        assert done.returncode == 3
        assert last_line(done).startswith(f"{START} rank {rank}: calls: ema C 3, "), done.stderr


def test_none_is_said_where_somebody_patched(folder: Path) -> None:
    """And nothing in a process that has the start-up file alone, as pip's."""
    (folder / "train.py").write_text("print('ran')\n")
    assert last_line(run(OURS, "train.py", folder=folder, **ON)) == f"{START} calls: none"
    at_start = "from yolov5_utils.overlay import at_start; at_start()"
    done = run(STOCK, "-c", at_start, folder=folder, YOLOV5_UTILS_OVERLAY="1", **ON)
    assert (done.returncode, done.stderr) == (0, "")


def test_own_code_has_it_too(folder: Path) -> None:
    done = run(STOCK, "-c", OWN, folder=folder, **ON)
    assert done.stderr == f"{START} calls: sparsity C 1\n"
    assert run(STOCK, "-c", OWN.partition(";")[0], folder=folder, **ON).stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no fork")
def test_children_do_not_repeat_it(folder: Path) -> None:
    child = "import os\nif os.fork() == 0: raise SystemExit\nos.wait()\n"
    (folder / "train.py").write_text(TRAINING + child)
    assert last_line(run(OURS, "train.py", folder=folder, **ON))
    work = "import multiprocessing as m\nif __name__ == '__main__':\n"
    work += "    with m.get_context('spawn').Pool(1) as pool: pool.map(abs, [1])\n"
    (folder / "train.py").write_text(work)
    assert last_line(run(OURS, "train.py", folder=folder, **ON)) == f"{START} calls: none"
