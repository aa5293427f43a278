"""Whole training steps with one EMA or none: what an average costs a training, host and device
together.

A step is YOLOv5's: forward, loss and backward, under AMP or not, unscaled and clipped gradients,
SGD, one update of one EMA, and the loss read for the progress bar. The images are made up and lie
on the device already. Must know neither how an EMA works nor where it runs.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolov5_utils.torch_utils import ModelEMA

from . import checks, harness, models, peers

TITLE = "Whole training steps"
NONE = "none"
COLUMNS = (
    *(harness.MODEL, harness.Column("batch", "batch", "{:d}"), harness.Column("AMP", "amp")),
    harness.Column("EMA", "who"),
    harness.Column("step, ms", "step_ms", "{:.2f}"),
    harness.Column("lower quartile", "quartile_ms", "{:.2f}"),
    harness.Column("images/s", "images_per_s", "{:.1f}"),
    harness.Column("over none, ms", "over_none_ms", "{:+.2f}"),
    harness.Column("of the step", "share", "{:+.1%}"),
)
Update = Callable[[nn.Module], object]


class Plan(NamedTuple):
    """How much is measured, and of what."""

    device: str
    batches: list[int]
    imgsz: int
    turns: int  # of each EMA; one more, which is not counted, comes first
    steps: int  # in a turn


def client_model(name: str) -> tuple[nn.Module, str]:
    """PyPI's yolov5's own model where it can be imported, else the benchmarks' of its shapes; and
    in words which."""
    try:
        from yolov5.models import yolo
    except ImportError as why:
        return models.build(name), f"benchmarks/models.py's modules ({why})"
    settings = Path(inspect.getfile(yolo)).with_name(f"yolov5{name}.yaml")
    model: nn.Module = yolo.Model(str(settings), ch=3, nc=models.CLASSES)
    return model, f"yolov5 {importlib.metadata.version('yolov5')}'s modules"


class Step:
    """A training of one model."""

    def __init__(self, model: nn.Module, plan: Plan, batch: int, amp: bool) -> None:
        self.model = model
        self.device = plan.device
        self.amp = amp
        self.images = torch.rand(batch, 3, plan.imgsz, plan.imgsz, device=plan.device)
        parameters = list(model.parameters())
        self.optimizer = torch.optim.SGD(parameters, lr=1e-5, momentum=0.937, nesterov=True)
        self.scaler = torch.amp.GradScaler(plan.device, enabled=amp)
        self.losses: list[float] = []

    def __call__(self, update: Update | None) -> None:
        with torch.autocast(self.device, enabled=self.amp):
            outputs: list[Tensor] = self.model(self.images)
            loss = sum(output.float().sigmoid().square().mean() for output in outputs)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if update is not None:
            update(self.model)
        self.losses.append(float(loss.detach()))  # as the progress bar does: waits for the device


def updates_of(model: nn.Module) -> dict[str, Update | None]:
    """None, the original, the newest other way, ours."""
    return {
        NONE: None,
        harness.ORIGINAL: peers.OriginalEMA(model).update,
        "_foreach_lerp_, kept lists": peers.KeptListsEMA(model).update,
        harness.PACKAGE: ModelEMA(model, peers.DECAY).update,
    }


def seconds_of(step: Step, plan: Plan) -> dict[str, list[float]]:
    """The seconds of a step in each turn of each EMA, which take turns."""
    updates = updates_of(step.model)
    taken: dict[str, list[float]] = {who: [] for who in updates}
    wanted = "CUDA" if plan.device == "cuda" else "C"
    with checks.ran("ema", wanted, (plan.turns + 1) * plan.steps):
        for turn in range(plan.turns + 1):
            for who, update in updates.items():
                begin = time.perf_counter()
                for _ in range(plan.steps):
                    step(update)
                if turn:
                    taken[who].append((time.perf_counter() - begin) / plan.steps)
    return taken


def rows_of(
    case: dict[str, Any], batch: int, taken: dict[str, list[float]]
) -> list[dict[str, Any]]:
    """A row per EMA."""
    none_s = statistics.median(taken[NONE])
    rows = []
    for who, seconds in taken.items():
        timing = harness.Timing.of(seconds)
        row = {**case, "who": who, "step_ms": timing.median_s * 1e3}
        row.update(quartile_ms=timing.quartile_s * 1e3, images_per_s=batch / timing.median_s)
        if who != NONE:
            row["over_none_ms"] = (timing.median_s - none_s) * 1e3
            row["share"] = (timing.median_s - none_s) / timing.median_s
        rows.append(row)
    return rows


def table(names: list[str], plan: Plan) -> harness.Table:
    """All models, batches, with AMP and without. A batch that does not fit is a note."""
    rows, notes = list[dict[str, Any]](), list[str]()
    for name in names:
        model, whose = client_model(name)
        model.to(plan.device).train()
        for batch in plan.batches:
            for amp in (True, False):
                case = {"model": name, "batch": batch, "amp": "on" if amp else "off"}
                try:
                    taken = seconds_of(Step(model, plan, batch, amp), plan)
                except torch.cuda.OutOfMemoryError:
                    notes.append(f"{name}, batch {batch}, AMP {case['amp']}: out of memory")
                else:
                    rows += rows_of(case, batch, taken)
    notes.append(
        f"{whose}; {plan.imgsz} px, SGD, clipped gradients, the loss read after each step; medians "
        f"of {plan.turns} turns of {plan.steps} steps, in which the EMAs take turns"
    )
    return harness.Table(f"{TITLE}, {plan.device}", COLUMNS, rows, notes)
