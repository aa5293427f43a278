"""The comparison notices a client in which one hot path is slightly wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from compare import HERE, differences
from environment import Environment
from releases import CLIENTS
from runs import Desk, Pair, output_folder, target

FAULTS = {  # fault -> the job that shows it, and where
    "lerp": ("train", "saves"),
    "pad": ("detect, augmented", "files"),
    "round": ("prune", "files"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_noticed(
    environment: Environment,
    pairs: Callable[[str], Pair],
    tmp_path: Path,
    fault: str,
) -> None:
    job, where = FAULTS[fault]
    name = "yolov5 7.0.14"
    stock = pairs(name).job(job)
    desk = Desk(environment, CLIENTS[name], tmp_path / "canary")
    if job != "train":
        desk.take_weights(pairs(name).stock)
    what, arguments = CLIENTS[name].jobs[job]
    canary = desk.run([HERE / "canary.py", fault, *target(desk, what), *arguments])
    files = desk.contents(output_folder(arguments))
    found = {
        "files": differences(files, stock.stock_files),
        "saves": differences(canary.saves, stock.stock.saves),
    }
    assert sorted(files) == sorted(stock.stock_files)
    assert len(canary.saves) == len(stock.stock.saves)
    assert found[where] != []
