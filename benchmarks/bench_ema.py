"""ModelEMA.update: YOLOv5's formula, the best other ways and the package, interleaved."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from yolov5_utils.ops import OPERATIONS
from yolov5_utils.torch_utils import ModelEMA

from . import bench_cuda, harness, models, peers

# Read average, read model, write average, 4 bytes each: no implementation moves less.
BYTES_PER_ELEMENT = 12
ORIGINAL = "original (mul_, mul, add_)"
# Faster than the original, faster than the best peer: by model and torch threads.
TARGETS = {("n", 1): ("≥ 12×", "≥ 5×"), ("x", 1): ("≥ 2.2×", "≥ 1.2×"), ("n", 2): ("≥ 14×", "≥ 5×")}
LIMIT_TARGETS = {("x", 1): "≥ 90% of limit", ("x", 2): "≥ 90% of limit"}
BUSY_TARGET = "≥ 1×"
BUSY_COLUMNS = (
    harness.Column("model", "model"),
    harness.Column("who", "who"),
    harness.Column("min ms", "min_ms", "{:.3f}"),
    harness.Column("median ms", "median_ms", "{:.3f}"),
    harness.Column("mean ms", "mean_ms", "{:.3f}"),
    harness.Column("faster than 1 thread (median)", "ratio_median", "{:.2f}×"),
    harness.Column("(mean)", "ratio_mean", "{:.2f}×"),
    harness.Column("target", "target"),
)


def assert_same_bits(start: nn.Module, source: nn.Module) -> None:
    """Three updates by the original and by the package end in the same bits, or AssertionError."""
    original, package = peers.OriginalEMA(start), ModelEMA(start, peers.DECAY)
    for _ in range(3):
        original.update(source)
        package.update(source)
    expected, found = original.ema.state_dict(), package.ema.state_dict()
    for key, value in expected.items():
        bits, found_bits = (t.flatten().view(torch.uint8) for t in (value, found[key]))
        assert torch.equal(bits, found_bits), f"{key}: bits differ from the original's"


def assert_ran_in_c(update: Callable[[], object]) -> None:
    """A figure of the reference must not pass for one of the C path."""
    calls = OPERATIONS["ema"].calls
    before = calls["C"]
    update()
    assert calls["C"] == before + 1, f"ran in torch: {OPERATIONS['ema'].reasons}"


def candidates(start: nn.Module, source: nn.Module) -> list[harness.Candidate]:
    """Everything timed for one model; every average is a copy of its own."""
    package, host = ModelEMA(start, peers.DECAY), ModelEMA(models.skeleton(start), peers.DECAY)
    small = models.skeleton(source)
    updates = {
        ORIGINAL: peers.OriginalEMA(start).update,
        "_foreach_lerp_ + 2 walks": peers.ForeachEMA(start).update,
        "swa AveragedModel": peers.averaged_model(start),
        "timm ModelEmaV3": peers.timm_average(start),
        "package": package.update,
    }
    found = [
        harness.Candidate(name, lambda update=update: update(source))
        for name, update in updates.items()
        if update is not None
    ]
    assert_ran_in_c(lambda: package.update(source))
    elements = models.count(source).float_elements
    found.append(harness.update_bandwidth(elements))
    found.append(harness.Candidate("host", lambda: host.update(small)))
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
    rows = harness.speed_rows(
        timings, moved_bytes=elements * BYTES_PER_ELEMENT, limits=[triad], hidden=["host"]
    )
    best_peer = harness.mark_best_peer(rows, ORIGINAL)
    targets = TARGETS.get((name, threads), (None, None))
    for row in rows:
        row.update(model=name, threads=threads)
        if row["who"] == ORIGINAL:
            row["target"] = targets[0]
        elif row is best_peer:
            row["target"] = targets[1]
        elif row["who"] == "package":
            row["target"] = LIMIT_TARGETS.get((name, threads))
            row["host_share"] = timings["host"].best_s / timings["package"].best_s
    return rows


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
        row = {"model": name, "who": who, "min_ms": timing.best_s * 1e3}
        row.update(median_ms=timing.median_s * 1e3, mean_ms=timing.mean_s * 1e3)
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


def main(arguments: list[str]) -> None:
    """Run from the command line."""
    options = harness.parser(__doc__ or "")
    options.add_argument("--busy", action="store_true", help="only: 1 and 2 threads, cores busy")
    chosen = options.parse_args(arguments)
    if chosen.device == "cuda":
        bench_cuda.run(["ema"], chosen)
        return
    about = harness.machine()
    names = harness.names_of(chosen.models)
    if chosen.busy:
        found = busy_table(names, chosen.seconds)
    else:
        threads = [int(part) for part in harness.names_of(chosen.threads)]
        found = table(names, threads, chosen.seconds)
    harness.show(about, [found], chosen.json)


if __name__ == "__main__":
    main(sys.argv[1:])
