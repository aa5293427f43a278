"""Host time of ModelEMA.update on a GPU: from the call to the launch, and what it consists of.

python -m benchmarks.bench_cuda_host [--models n,s,x]     # needs no GPU
python -m benchmarks.bench_cuda_host --device cuda        # on a GPU, beside the others' host times

Without a GPU, what is timed is the package's own code as it runs for CUDA tensors: walk, checks,
torch's exchange table, version counters, and the library's launchers, up to the driver. tests/cuda
makes the CPU's tensors pass for a GPU's, which costs a comparison per tensor, and has a driver that
does nothing; what the real one takes for a launch, a few microseconds, comes on top.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from tests.cuda.stand_in import (
    Launches,
    Times,
    build,
    build_launchers,
    compiler,
    launches_of,
    stand_in,
    times_of,
)
from yolov5_utils.torch_utils import ModelEMA

from . import bench_cuda, checks, cuda_timing, harness, models, peers

PACKAGE = "package, to the launch"
WALKS = "two state_dict() alone, as the original begins"
COLUMNS = (
    *(harness.MODEL, harness.WHO),
    *harness.times_of(harness.COLD, harness.HOT, unit="µs"),
    harness.Column("tensors", "tensors", "{:d}"),
    harness.Column("launches of the original", "launches", "{:d}"),
)
LAUNCHES_PER_TENSOR = 3  # mul_, mul, add_

# The parts of an update, each from where the one before it ended.
PARTS = ("guards and walk", "borrow", "overlap", "versions", "launch", "after it")
ANATOMY_COLUMNS = (
    *(harness.MODEL, harness.Column("caches", "caches")),
    harness.Column("guards", "guards", "{:.1f}"),
    harness.Column("walk", "walk", "{:.1f}"),
    *(harness.Column(part, part, "{:.1f}") for part in PARTS[1:]),
    harness.Column("all, µs", "all", "{:.1f}"),
)
HOT_CALLS = 8  # after each cold one


class Watch(NamedTuple):
    """Where the stand-in and its driver note when a call came how far."""

    times: Times
    launches: Launches

    def parts_ns(self, call: Callable[[], object]) -> list[int]:
        """The nanoseconds of each part of one call."""
        times, launches = self.times, self.launches
        times.borrowed = 0
        begin = time.perf_counter_ns()
        call()
        end = time.perf_counter_ns()
        marks = [begin, times.first_ns, times.last_ns, times.stream_ns]
        marks += [launches.entered_ns, launches.launched_ns, end]
        return [after - before for before, after in pairwise(marks)]

    def rounds(
        self, call: Callable[[], object], seconds: float
    ) -> tuple[list[list[int]], list[list[int]]]:
        """The parts of cold calls, and of the hot ones behind them."""
        call()
        self.times.borrowed = 0
        call()
        self.times.last = self.times.borrowed
        cold, hot = list[list[int]](), list[list[int]]()
        gc.collect()
        gc.disable()
        end = time.perf_counter() + seconds
        while len(cold) < harness.MIN_ROUNDS or time.perf_counter() < end:
            harness.touch()
            cold.append(self.parts_ns(call))
            hot += [self.parts_ns(call) for _ in range(HOT_CALLS)]
        gc.enable()
        return cold, hot


@contextlib.contextmanager
def watching(folder: Path) -> Iterator[Watch]:
    """The stand-in in place of a GPU, as long as this lasts."""
    table, library = build("stand_in.c", folder), build_launchers(folder)
    with stand_in(table, library):
        yield Watch(times_of(table), launches_of(library))


def update_of(start: nn.Module, source: nn.Module) -> Callable[[], object]:
    """An update on what passes for a GPU."""
    average = ModelEMA(start, peers.DECAY)
    with checks.ran("ema", "CUDA"):
        average.update(source)
    return lambda: average.update(source)


def medians_us(samples: list[list[int]]) -> list[float]:
    """Of each part."""
    return [statistics.median(part) / 1e3 for part in zip(*samples, strict=True)]


def anatomy_rows(watch: Watch, name: str, seconds: float) -> list[dict[str, Any]]:
    """The rows of one model. Guards are what a module of one tensor takes in the walk's place."""
    small = watch.rounds(update_of(nn.Linear(2, 1, False), nn.Linear(2, 1, False)), seconds / 4)
    samples = watch.rounds(update_of(models.build(name), models.build(name, seed=1)), seconds)
    rows = []
    for caches, own, least in zip(("cold", "hot"), samples, small, strict=True):
        parts = dict(zip(PARTS, medians_us(own), strict=True))
        row: dict[str, Any] = {"model": name, "caches": caches, **parts}
        row["guards"] = medians_us(least)[0]
        row["walk"] = parts[PARTS[0]] - row["guards"]
        row["all"] = statistics.median(sum(sample) for sample in own) / 1e3
        rows.append(row)
    return rows


def rows_of(watch: Watch, name: str, seconds: float) -> list[dict[str, Any]]:
    """The whole calls of one model."""
    start, source = models.build(name), models.build(name, seed=1)
    before = watch.launches.launches
    update = update_of(start, source)
    assert watch.launches.launches == before + 1
    compared = [
        harness.Candidate(PACKAGE, update),
        harness.Candidate(WALKS, lambda: (start.state_dict(), source.state_dict())),
    ]
    tensors = models.count(source).float_entries
    rows = []
    for who, both in harness.interleave(compared, seconds).items():
        row: dict[str, Any] = {"model": name, "who": who}
        for state, timing in both._asdict().items():
            row.update(harness.times(state, timing, "µs"))
        if who == PACKAGE:
            row.update(tensors=tensors, launches=LAUNCHES_PER_TENSOR * tensors)
        rows.append(row)
    return rows


def tables(names: list[str], seconds: float) -> Iterator[harness.Table]:
    """Whole calls, and their parts; empty, with a note, where no compiler makes the stand-in."""
    whole = harness.Table("Host time of the EMA on a GPU, by a stand-in", COLUMNS, [], [])
    parts = harness.Table("Parts of that host time", ANATOMY_COLUMNS, [], [])
    if compiler() is None:
        for empty in (whole, parts):
            empty.notes.append("no C compiler: not measured")
            yield empty
        return
    with tempfile.TemporaryDirectory() as folder, watching(Path(folder)) as watch:
        for name in names:
            whole.rows.extend(rows_of(watch, name, seconds))
            parts.rows.extend(anatomy_rows(watch, name, seconds))
    whole.notes.append("the driver's part of a launch is not in it")
    parts.notes.append(
        "medians, µs. Guards: what a module of one tensor takes before its tensor is looked at. "
        "Walk: both trees, and the question for a negative bit of every buffer. Borrow: torch's "
        "exchange table, tensor after tensor. Overlap: checks on the list as a whole. Versions: "
        "torch's counters. Launch: the library's table, without the driver's part"
    )
    yield whole
    yield parts


def on_gpu_rows(name: str, seconds: float) -> list[dict[str, Any]]:
    """Host times of the ways to average on a GPU, which is idle before each call."""
    start, source = models.build(name).cuda(), models.build(name, seed=1).cuda()
    ways = {
        "original": peers.OriginalEMA(start),
        "_foreach_lerp_, kept lists (other bits)": peers.KeptListsEMA(start),
        harness.PACKAGE: ModelEMA(start, peers.DECAY),
    }
    with checks.ran("ema", "CUDA"):
        for average in ways.values():
            average.update(source)
    compared = [
        harness.Candidate(who, lambda a=average: a.update(source), renew=torch.cuda.synchronize)
        for who, average in ways.items()
    ]
    rows = []
    for who, both in harness.interleave(compared, seconds).items():
        row: dict[str, Any] = {"model": name, "who": who}
        for state, timing in both._asdict().items():
            row.update(harness.times(state, timing, "µs"))
        rows.append(row)
    return rows


def on_gpu(chosen: argparse.Namespace) -> None:
    """The same call with the real driver."""
    bench_cuda.need_gpu()
    print(cuda_timing.device_line())
    about = harness.machine()
    rows = [row for name in chosen.models for row in on_gpu_rows(name, chosen.seconds)]
    notes = ["until the call returns; the GPU was idle before"]
    shown = harness.Table("Host time of the EMA on a GPU", COLUMNS[:-2], rows, notes)
    harness.show(about, [shown], chosen.json)


if __name__ == "__main__":
    harness.run(
        harness.parser(str(__doc__).splitlines()[0]),
        lambda chosen: tables(chosen.models, chosen.seconds),
        on_gpu,
    )
