"""The EMA where users meet it: inside training steps, whose work leaves the caches cold.

python -m benchmarks.bench_training [--models n,s] [--threads 1,2] [--steps 150] [--imgsz 128]

A step is forward, loss, backward, clipped gradients and SGD on one model; then one EMA of it is
updated, and only that is timed. The EMAs take turns, some steps each, so that all meet the same
state of the machine; the first step of a turn, when an EMA's tensors are coldest, is not timed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from yolov5_utils.ops import OPERATIONS
from yolov5_utils.torch_utils import ModelEMA

from . import harness, models, peers

STEPS_A_TURN = 6
PACKAGE, ORIGINAL = "package", "original (in place, per tensor)"
COLUMNS = (
    harness.MODEL,
    harness.Column("threads", "threads", "{:d}"),
    harness.Column("EMA", "who"),
    harness.Column("median ms", "median_ms", "{:.3f}"),
    harness.Column("lower quartile ms", "quartile_ms", "{:.3f}"),
    harness.Column("package faster by", "ratio", "{:.2f}×"),
    harness.Column("by lower quartiles", "ratio_quartile", "{:.2f}×"),
    harness.Column("of the step", "share", "{:.1%}"),
)


class Step:
    """Training steps of one model on the same made-up images."""

    def __init__(self, name: str, imgsz: int, batch: int) -> None:
        self.model = models.build(name).train()
        self.images = torch.rand(batch, 3, imgsz, imgsz)
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.937, nesterov=True)

    def __call__(self) -> None:
        outputs: list[Tensor] = self.model(self.images)
        loss = sum(output.float().sigmoid().square().mean() for output in outputs)
        assert isinstance(loss, Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def averages(model: nn.Module) -> dict[str, Callable[[], object]]:
    """The ways to update an EMA of the model, each of its own EMA."""
    ways: dict[str, Callable[[nn.Module], object] | None] = {
        PACKAGE: ModelEMA(model, peers.DECAY).update,
        ORIGINAL: peers.OriginalEMA(model).update,
        "_foreach_lerp_, kept lists": peers.KeptListsEMA(model).update,
        "_foreach_lerp_ + 2 walks": peers.ForeachEMA(model).update,
        "timm ModelEmaV3": peers.timm_average(model),
        "torch AveragedModel, multi_avg": peers.averaged_model(model),
    }
    return {
        name: (lambda update=update: update(model))  # type: ignore[misc]
        for name, update in ways.items()
        if update is not None
    }


def measure(name: str, threads: int, steps: int, imgsz: int, batch: int) -> list[dict[str, Any]]:
    """The rows of one model at one number of threads: `steps` timed updates of each EMA."""
    torch.set_num_threads(threads)
    step = Step(name, imgsz, batch)
    updates = averages(step.model)
    taken: dict[str, list[float]] = {who: [] for who in updates}
    of_steps: list[float] = []
    calls = OPERATIONS["ema"].calls["C"]
    while min(map(len, taken.values())) < steps:
        for who, update in updates.items():
            for number in range(STEPS_A_TURN):
                begin = time.perf_counter()
                step()
                between = time.perf_counter()
                update()
                end = time.perf_counter()
                if number:
                    taken[who].append(end - between)
                    of_steps.append(between - begin)
    assert OPERATIONS["ema"].calls["C"] > calls, OPERATIONS["ema"].reasons
    median = {who: statistics.median(times) for who, times in taken.items()}
    quartile = {who: statistics.quantiles(times, n=4)[0] for who, times in taken.items()}
    whole = statistics.median(of_steps)
    return [
        {
            "model": name,
            "threads": threads,
            "who": who,
            "median_ms": 1e3 * median[who],
            "quartile_ms": 1e3 * quartile[who],
            "ratio": None if who == PACKAGE else median[who] / median[PACKAGE],
            "ratio_quartile": None if who == PACKAGE else quartile[who] / quartile[PACKAGE],
            "share": median[who] / (whole + median[who]),
        }
        for who in updates
    ]


def table(
    names: list[str], threads: list[int], steps: int, imgsz: int = 128, batch: int = 4
) -> harness.Table:
    """The table of all models and numbers of threads."""
    rows = [row for t in threads for name in names for row in measure(name, t, steps, imgsz, batch)]
    notes = [
        f"{imgsz} px, batch {batch}, SGD, clipped gradients, CPU; {steps} timed updates of each "
        f"EMA or more, {STEPS_A_TURN} steps in turn, of which the first is not timed",
        "of the step: of forward, backward, optimizer and this update together",
    ]
    return harness.Table("ModelEMA.update in training steps", COLUMNS, rows, notes)


if __name__ == "__main__":
    options = harness.parser(str(__doc__).splitlines()[0], devices=("cpu",))
    options.set_defaults(models="n,s")
    options.add_argument("--steps", type=int, default=150, help="timed updates of each EMA")
    options.add_argument("--imgsz", type=int, default=128)
    options.add_argument("--batch", type=int, default=4)
    harness.run(
        options,
        lambda chosen: [
            table(chosen.models, chosen.threads, chosen.steps, chosen.imgsz, chosen.batch)
        ],
    )
