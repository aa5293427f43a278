"""The EMA where users meet it: inside training steps, whose work leaves the caches cold.

python -m benchmarks.bench_training [--models n,s] [--threads 1,2] [--steps 150] [--imgsz 128]
python -m benchmarks.bench_training --device cuda [--batches 16,64] [--imgsz 640]   # whole_steps.py

A step is forward, loss, backward, clipped gradients and SGD on one model; then one EMA of it is
updated, and only that is timed. The EMAs take turns, some steps each, so that all meet the same
state of the machine; the first step of a turn, when an EMA's tensors are coldest, is not timed.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor, nn

from yolov5_utils.ops import OPERATIONS
from yolov5_utils.torch_utils import ModelEMA

from . import bench_cuda, cuda_timing, harness, models, peers, summary, whole_steps

STEPS_A_TURN = 6
COLUMNS = (
    *(harness.MODEL, harness.THREADS, harness.Column("EMA", "who")),
    *harness.speeds_of(harness.STEP),
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


def measure(name: str, threads: int, steps: int, imgsz: int, batch: int) -> list[dict[str, Any]]:
    """The rows of one model at one number of threads: `steps` timed updates of each EMA."""
    torch.set_num_threads(threads)
    step = Step(name, imgsz, batch)
    model = step.model
    updates = {**peers.averages(model), harness.PACKAGE: ModelEMA(model, peers.DECAY).update}
    taken: dict[str, list[float]] = {who: [] for who in updates}
    of_steps: list[float] = []
    calls = OPERATIONS["ema"].calls["C"]
    while min(map(len, taken.values())) < steps:
        for who, update in updates.items():
            for number in range(STEPS_A_TURN):
                begin = time.perf_counter()
                step()
                between = time.perf_counter()
                update(model)
                end = time.perf_counter()
                if number:
                    taken[who].append(end - between)
                    of_steps.append(between - begin)
    timed = STEPS_A_TURN * len(taken[harness.PACKAGE]) // (STEPS_A_TURN - 1)
    assert OPERATIONS["ema"].calls["C"] == calls + timed, OPERATIONS["ema"].reasons
    timings = {who: harness.Timing.of(times) for who, times in taken.items()}
    package, whole = timings[harness.PACKAGE], harness.Timing.of(of_steps).median_s
    rows = []
    for who, timing in timings.items():
        row: dict[str, Any] = {"model": name, "threads": threads, "who": who}
        row.update(harness.times(harness.STEP, timing))
        if timing is not package:
            row.update(harness.faster_by(harness.STEP, package, timing))
        row["share"] = timing.median_s / (whole + timing.median_s)
        rows.append(row)
    harness.mark_best_peer(rows)
    return rows


def table(
    names: list[str], threads: list[int], steps: int, imgsz: int = 128, batch: int = 4
) -> harness.Table:
    """The table of all models and numbers of threads."""
    rows = [row for t in threads for name in names for row in measure(name, t, steps, imgsz, batch)]
    notes = [
        f"{imgsz} px, batch {batch}, SGD, clipped gradients, CPU; {steps} timed updates of each "
        f"EMA or more, {STEPS_A_TURN} steps in turn, of which the first is not timed",
        "of the step: of forward, backward, optimizer and this update together; larger images and "
        "batches lengthen the step, not the update",
    ]
    return harness.Table(summary.IN_STEPS, COLUMNS, rows, notes)


def on_gpu(chosen: argparse.Namespace) -> None:
    """Whole steps, since there an update runs beside the rest."""
    bench_cuda.need_gpu()
    print(cuda_timing.device_line())
    about = harness.machine()
    plan = whole_steps.Plan("cuda", chosen.batches, chosen.imgsz or 640, turns=5, steps=4)
    harness.show(about, [whole_steps.table(chosen.models, plan)], chosen.json)


if __name__ == "__main__":
    options = harness.parser(str(__doc__).splitlines()[0])
    options.set_defaults(models="n,s")
    options.add_argument("--steps", type=int, default=150, help="timed updates of each EMA")
    options.add_argument("--imgsz", type=int, help="(default 128; 640 on a GPU)")
    options.add_argument("--batch", type=int, default=4)
    options.add_argument(
        "--batches", type=harness.counts_of, default="16,64", help="on a GPU (default %(default)s)"
    )
    harness.run(
        options,
        lambda chosen: [
            table(chosen.models, chosen.threads, chosen.steps, chosen.imgsz or 128, chosen.batch)
        ],
        on_gpu,
    )
