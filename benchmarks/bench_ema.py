"""ModelEMA.update: YOLOv5's formula, the best other ways and the package, interleaved."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import torch
from torch import nn

from yolov5_utils.torch_utils import ModelEMA

from . import bench_cuda, checks, harness, models, peers

# Read average, read model, write average, 4 bytes each: no implementation moves less.
BYTES_PER_ELEMENT = 12
ORIGINAL = "original (mul_, mul, add_)"
# Package faster than these, and how close to the limit: by model and torch threads.
BEST_PEER, CLOSE = harness.BEST_PEER, {harness.PACKAGE: "≥ 90% of limit"}
TARGETS = {
    ("n", 1): {ORIGINAL: "≥ 12×", BEST_PEER: "≥ 5×"},
    ("x", 1): {ORIGINAL: "≥ 2.2×", BEST_PEER: "≥ 1.2×", **CLOSE},
    ("n", 2): {ORIGINAL: "≥ 14×", BEST_PEER: "≥ 5×"},
    ("x", 2): CLOSE,
}
BUSY_TARGET = "≥ 1×"
BUSY_COLUMNS = (
    *(harness.MODEL, harness.WHO, *harness.TIMES),
    harness.Column("mean ms", "mean_ms", "{:.3f}"),
    harness.Column("faster than 1 thread (median)", "ratio_median", "{:.2f}×"),
    harness.Column("(mean)", "ratio_mean", "{:.2f}×"),
    harness.TARGET,
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
    package, host = ModelEMA(start, peers.DECAY), ModelEMA(models.skeleton(start), peers.DECAY)
    small = models.skeleton(source)
    updates = {
        ORIGINAL: peers.OriginalEMA(start).update,
        "_foreach_lerp_ + 2 walks": peers.ForeachEMA(start).update,
        "swa AveragedModel": peers.averaged_model(start),
        "timm ModelEmaV3": peers.timm_average(start),
        harness.PACKAGE: package.update,
    }
    found = [
        harness.Candidate(name, lambda update=update: update(source))
        for name, update in updates.items()
        if update is not None
    ]
    with checks.ran("ema"):
        package.update(source)
    elements = models.count(source).float_elements
    found.append(harness.update_bandwidth(elements))
    found.append(harness.Candidate(harness.HOST, lambda: host.update(small)))
    return found


def measure(name: str, threads: int, seconds: float) -> list[dict[str, Any]]:
    """The rows of one model at one thread count."""
    start, source = models.build(name, seed=0), models.build(name, seed=1)
    elements = models.count(source).float_elements
    torch.set_num_threads(threads)
    assert_same_bits(start, source)
    compared = candidates(start, source)
    timings = harness.interleave(compared, seconds)
    triad = next(c.name for c in compared if c.name.startswith("triad"))
    return harness.speed_rows(
        timings,
        {"model": name, "threads": threads},
        moved_bytes=elements * BYTES_PER_ELEMENT,
        limits=[triad],
        original=ORIGINAL,
        targets=TARGETS.get((name, threads)),
    )


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
    for who, timing in timings.items():
        row = {"model": name, "who": who, **timing.in_ms()}
        if timing is not one:
            row.update(ratio_median=one.median_s / timing.median_s, target=BUSY_TARGET)
            row.update(ratio_mean=one.mean_s / timing.mean_s)
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


def tables(names: list[str], seconds: float) -> list[harness.Table]:
    """All tables of this path, for the report."""
    return [table(names, [1, 2], seconds), busy_table(names, seconds)]


def chosen_tables(chosen: Namespace) -> list[harness.Table]:
    """What the command line asks for."""
    if chosen.busy:
        return [busy_table(chosen.models, chosen.seconds)]
    return [table(chosen.models, chosen.threads, chosen.seconds)]


if __name__ == "__main__":
    options = harness.parser(__doc__ or "")
    options.add_argument("--busy", action="store_true", help="only: 1 and 2 threads, cores busy")
    harness.run(options, chosen_tables, bench_cuda.runner("ema"))
