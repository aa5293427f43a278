"""ModelEMA.update: YOLOv5's formula, the best other ways and the package, interleaved."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from yolov5_utils.torch_utils import ModelEMA

from . import bench_cuda, checks, harness, models, peers

BUSY_COLUMNS = (
    *(harness.MODEL, harness.WHO, *harness.times_of(harness.COLD, harness.HOT)),
    harness.Column("faster than 1 thread, cold", "cold_ratio", "{:.2f}×"),
    harness.Column("hot", "hot_ratio", "{:.2f}×"),
)


def assert_same_bits(start: nn.Module, source: nn.Module) -> None:
    """Three updates by the original and by the package end in the same bits, or AssertionError."""
    original, package = peers.OriginalEMA(start), ModelEMA(start, peers.DECAY)
    for _ in range(3):
        original.update(source)
        package.update(source)
    checks.same_bits(package.ema.state_dict(), original.ema.state_dict())


def candidates(start: nn.Module, source: nn.Module) -> list[harness.Candidate]:
    """Everything timed for one model; every average is a copy of its own."""
    package = ModelEMA(start, peers.DECAY)
    updates = {**peers.averages(start), harness.PACKAGE: package.update}
    with checks.ran("ema"):
        package.update(source)
    found = [
        harness.Candidate(name, lambda update=update: update(source))
        for name, update in updates.items()
    ]
    return [*found, harness.update_bandwidth(models.count(source).float_elements)]


def measure(name: str, threads: int, seconds: float) -> list[dict[str, Any]]:
    """The rows of one model at one thread count."""
    start, source = models.build(name, seed=0), models.build(name, seed=1)
    torch.set_num_threads(threads)
    assert_same_bits(start, source)
    compared = candidates(start, source)
    timings = harness.interleave(compared, seconds)
    return harness.speed_rows(timings, {"model": name, "threads": threads}, [compared[-1].name])


def measure_busy(name: str, seconds: float) -> list[dict[str, Any]]:
    """The package with 1 and 2 threads while every core also runs something else."""
    start, source = models.build(name, seed=0), models.build(name, seed=1)
    package = ModelEMA(start, peers.DECAY)
    compared = [
        harness.Candidate(
            f"package, {threads} thread{'s' * (threads > 1)}",
            lambda: package.update(source),
            lambda threads=threads: torch.set_num_threads(threads),
        )
        for threads in (1, 2)
    ]
    with harness.busy_cores(harness.usable_cores()):
        timings = harness.interleave(compared, seconds)
    one = timings[compared[0].name]
    rows = []
    for who, both in timings.items():
        row: dict[str, Any] = {"model": name, "who": who}
        for state, timing in both._asdict().items():
            row.update(harness.times(state, timing))
            if both is not one:
                row.update(harness.faster_by(state, timing, getattr(one, state)))
        rows.append(row)
    return rows


def table(names: list[str], threads: list[int], seconds: float) -> harness.Table:
    """The table of speeds."""
    rows = [row for t in threads for name in names for row in measure(name, t, seconds)]
    notes = ["bits equal to the original's, checked before timing"]
    if not any("timm" in row["who"] for row in rows):
        notes.append("timm not installed: row left out")
    return harness.Table("ModelEMA.update", harness.SPEED_COLUMNS, rows, notes)


def busy_table(names: list[str], seconds: float) -> harness.Table:
    """The table of the package with all cores busy."""
    rows = [row for name in names for row in measure_busy(name, seconds)]
    notes = [f"{harness.usable_cores()} spinning processes beside it"]
    return harness.Table("ModelEMA.update with all cores busy", BUSY_COLUMNS, rows, notes)


def tables(names: list[str], seconds: float) -> Iterator[harness.Table]:
    """All tables of this path, for the report."""
    yield table(names, [1, 2], seconds)
    yield busy_table(names, seconds)


def chosen_tables(chosen: Namespace) -> list[harness.Table]:
    """What the command line asks for."""
    if chosen.busy:
        return [busy_table(chosen.models, chosen.seconds)]
    return [table(chosen.models, chosen.threads, chosen.seconds)]


if __name__ == "__main__":
    options = harness.parser(__doc__ or "")
    options.add_argument("--busy", action="store_true", help="only: 1 and 2 threads, cores busy")
    harness.run(options, chosen_tables, bench_cuda.runner("ema"))
