"""Which way each hot path takes on the installed torch, and how many times as fast as the original
it is: `python -m tests.smoke.speed FILE`, as JSON. One thread, a small model, seconds in all."""

from __future__ import annotations

import contextlib
import io
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from yolov5_utils import _C, reference, torch_utils
from yolov5_utils.ops import OPERATIONS

from ..support import original

SECONDS = 1.0  # of measuring for each hot path
WIDTHS = (16, 32, 32, 64, 64, 64, 128, 128, 128, 256) * 5  # about as many layers as YOLOv5n has


class Contest(NamedTuple):
    """The same work by the original's operations and by the package; before each, `prepare`."""

    original: Callable[[], object]
    package: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


def build() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(WIDTHS)):
        layers += [nn.Conv2d(inputs, outputs, 1 + 2 * (number % 2), bias=False)]
        layers += [nn.BatchNorm2d(outputs).requires_grad_(False)]
    return nn.Sequential(*layers).eval()


def ema(model: nn.Sequential) -> Contest:
    average = torch_utils.ModelEMA(model, updates=1000)
    return Contest(
        lambda: original(average.ema, model, average.decay(1000)), lambda: average.update(model)
    )


def fuse(model: nn.Sequential) -> Contest:
    pairs = list(zip(model[::2], model[1::2]))  # noqa: B905

    def all_by(function: Callable[..., object]) -> Callable[[], object]:
        def run() -> None:
            with torch.no_grad():
                for pair in pairs:
                    function(*pair)

        return run

    return Contest(all_by(reference.fuse_conv_and_bn), all_by(torch_utils.fuse_conv_and_bn))


def prune(model: nn.Sequential) -> Contest:
    """Pruned weights are quicker to prune again, so each call has fresh ones."""
    weights = deepcopy(model.state_dict())

    def by_torch() -> None:
        for conv in model[::2]:
            torch_prune.l1_unstructured(conv, "weight", 0.3)
            torch_prune.remove(conv, "weight")
        print(f"{reference.sparsity(model):.3g}")  # as the original does

    return Contest(
        by_torch,
        lambda: torch_utils.prune(model, 0.3, ties="torch"),
        lambda: model.load_state_dict(weights),
    )


def sparsity(model: nn.Sequential) -> Contest:
    return Contest(lambda: reference.sparsity(model), lambda: torch_utils.sparsity(model))


def scale_img(model: nn.Sequential) -> Contest:
    image = torch.rand(1, 3, 640, 640)
    return Contest(
        lambda: reference.scale_img(image, 0.83), lambda: torch_utils.scale_img(image, 0.83)
    )


def time_synchronized(model: nn.Sequential) -> Contest:
    def many(function: Callable[[], object]) -> Callable[[], object]:
        return lambda: [function() for _ in range(1000)]

    return Contest(many(reference.time_synchronized), many(torch_utils.time_synchronized))


CONTESTS = (ema, fuse, prune, sparsity, scale_img, time_synchronized)


def seconds_of(function: Callable[[], object], prepare: Callable[[], object]) -> float:
    """Of this thread alone, which does it all: on a busy machine the longer one of two functions
    waits more often for a processor, so that the clock would flatter the shorter one."""
    prepare()
    begin = time.thread_time()
    function()
    return time.thread_time() - begin


def times_as_fast(contest: Contest) -> float:
    """The original's time by the package's: lower quartiles, the steadiest on a shared machine."""
    took: tuple[list[float], list[float]] = ([], [])
    end = time.thread_time() + SECONDS
    for count in range(1_000_000):
        if count >= 5 and time.thread_time() > end:
            break
        for times, function in zip(took, contest[:2]):  # noqa: B905
            times.append(seconds_of(function, contest.prepare))
    theirs, ours = (statistics.quantiles(times)[0] for times in took)
    return theirs / ours


def measured() -> Iterator[tuple[str, dict[str, Any]]]:
    for made in CONTESTS:
        path = OPERATIONS[made.__name__]
        contest = made(build())
        seconds_of(contest.package, contest.prepare)  # the first call of all tries what torch does
        before = path.counted()
        times = times_as_fast(contest)
        ways = [way for way, count in path.counted().items() if count > before[way]]
        yield (
            path.name,
            {"ways": ways, "times_as_fast": round(times, 2), "reasons": [*path.reasons]},
        )


def main(file: Path) -> None:
    torch.set_num_threads(1)
    info = _C.info()
    with contextlib.redirect_stdout(io.StringIO()):  # prune says something
        hot_paths = dict(measured())
    facts = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "tensors": "table" if info["exchange_table"] else "capsules",
        "threads": "torch's" if info["thread_pool"] else "one",
        "level": info["level"],
        "hot_paths": hot_paths,
    }
    file.write_text(json.dumps(facts, indent=2) + "\n")
    print(file.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
