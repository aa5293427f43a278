"""YOLOv5 7.0 trains the same after an interruption, and with data-loader workers of both kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from environment import Environment
from releases import CLIENTS
from runs import ROUTES, Pair

SCRIPT = "python -m yolov5_utils SCRIPT"
SWITCH = "YOLOV5_UTILS_OVERLAY=1"
NAME = "yolov5 7.0.14"
KILLED_BY_CTRL_C = -2


def training(**changed: str) -> list[str]:
    """The arguments of the client's training, with some values changed."""
    _, arguments = CLIENTS[NAME].jobs["train"]
    arguments = list(arguments)
    for option, value in changed.items():
        arguments[arguments.index(f"--{option}") + 1] = value
    return arguments


def test_resume_after_ctrl_c(newest: Pair, report: Callable[..., None]) -> None:
    """Ctrl-C right after the second save; --resume goes on from last.pt."""
    begin = training(name="resumed")
    go_on = ["--resume", "runs/resumed/weights/last.pt"]
    commands = [
        [*newest.route.stock(newest.stock, "yolov5.train"), *begin],
        [*newest.route.ours(newest.ours, "yolov5.train"), *begin],
    ]
    cut = newest.both(*commands, "resumed", code=KILLED_BY_CTRL_C, INTERRUPT="2")
    assert cut.differences() == []
    assert "KeyboardInterrupt" in cut.ours.output
    assert len(cut.stock_files["results.csv"]) == 2  # one epoch
    resumed = newest.both(
        [*newest.route.stock(newest.stock, "yolov5.train"), *go_on],
        [*newest.route.ours(newest.ours, "yolov5.train"), *go_on],
        "resumed",
    )
    report(NAME, newest.route.name, "resume after Ctrl-C", resumed)
    assert resumed.differences() == []
    assert len(resumed.stock_files["results.csv"]) == 3
    assert resumed.ours.end["package"]["calls"]["ema"] == {"C": 4, "CUDA": 0, "torch": 0}


@pytest.mark.parametrize(
    ("method", "route"), [("fork", SCRIPT), ("spawn", SCRIPT), ("spawn", SWITCH)]
)
def test_loader_workers(
    environment: Environment,
    report: Callable[..., None],
    tmp_path: Path,
    method: str,
    route: str,
) -> None:
    pair = Pair(environment, CLIENTS[NAME], ROUTES[route], tmp_path)
    arguments = training(workers="1", epochs="1")
    outcome = pair.both(
        [*pair.route.stock(pair.stock, "yolov5.train"), *arguments],
        [*pair.route.ours(pair.ours, "yolov5.train"), *arguments],
        "train",
        START_METHOD=method,
    )
    report(NAME, route, f"train, workers by {method}", outcome)
    assert outcome.differences() == []
    assert outcome.ours.end["package"]["calls"]["ema"] == {"C": 4, "CUDA": 0, "torch": 0}
    started_by, processes = outcome.ours.end["workers"]
    assert started_by == method
    assert processes >= 2  # one for training, one for validation
