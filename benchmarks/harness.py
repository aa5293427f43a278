"""Timing, bandwidth, machine description and tables shared by all benchmarks.

Figures are ratios taken in one process: candidates take turns, so that a slow moment of a shared
machine hits all of them. Must not know any hot path.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import torch

# A turn repeats short calls for about this long: long enough to warm the caches with the
# candidate's own data, short enough that ten candidates meet the same state of the machine.
TURN_S = 0.004
# More calls than this in one turn add nothing to a minimum or a median.
MAX_CALLS_PER_TURN = 40
MIN_ROUNDS = 5
# A call of this length does not gain from caches filled by one before it, which is left out then.
LONG_CALL_S = 1.0


class Candidate(NamedTuple):
    """One of the callables compared."""

    name: str
    call: Callable[[], object]
    prepare: Callable[[], object] | None = None  # untimed, at the start of each turn
    renew: Callable[[], object] | None = None  # untimed, before every call


class Timing(NamedTuple):
    """The timed calls of one candidate, in seconds."""

    best_s: float
    median_s: float
    mean_s: float
    calls: int

    def in_ms(self) -> dict[str, Any]:
        """The values of a table's row."""
        taken_s = {"min": self.best_s, "median": self.median_s, "mean": self.mean_s}
        return {f"{name}_ms": value * 1e3 for name, value in taken_s.items()}


def many(function: Callable[[], object], calls: int) -> Callable[[], None]:
    """So many calls of the function, each too short for a clock."""

    def run() -> None:
        for _ in repeat(None, calls):
            function()

    return run


def interleave(candidates: Sequence[Candidate], seconds: float) -> dict[str, Timing]:
    """Time the candidates A B C, A B C … for `seconds` in all, at least MIN_ROUNDS rounds.

    The first call of every turn is not timed: it refills the caches after the other candidates.
    """
    names = [candidate.name for candidate in candidates]
    if len(set(names)) != len(names):
        raise ValueError(f"candidates: names must differ, got {names}")
    samples: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        rounds = 0
        while rounds < MIN_ROUNDS or time.perf_counter() < end:
            for candidate in candidates:
                samples[candidate.name] += _turn(candidate)
            rounds += 1
    finally:
        if was_enabled:
            gc.enable()
    return {
        name: Timing(min(taken), statistics.median(taken), statistics.fmean(taken), len(taken))
        for name, taken in samples.items()
    }


def _turn(candidate: Candidate) -> list[float]:
    """The seconds of each timed call of one turn."""
    if candidate.prepare is not None:
        candidate.prepare()
    first = _timed(candidate)
    if first >= LONG_CALL_S:
        return [first]
    calls = max(1, min(MAX_CALLS_PER_TURN, int(TURN_S / max(first, 1e-9))))
    return [_timed(candidate) for _ in range(calls)]


def _timed(candidate: Candidate) -> float:
    """The seconds of one call."""
    if candidate.renew is not None:
        candidate.renew()
    call, clock = candidate.call, time.perf_counter
    start = clock()
    call()
    return clock() - start


def update_bandwidth(elements: int) -> Candidate:
    """A triad a = a + s·b over float32: reads 8 and writes 4 bytes per element, in place.

    The traffic of one EMA pass with nothing else; torch's own kernel, on torch's threads.
    """
    a, b = torch.rand(elements), torch.rand(elements)
    return Candidate("triad a += s·b", lambda: torch.add(a, b, alpha=1e-9, out=a))


def read_bandwidth(elements: int) -> list[Candidate]:
    """Two reductions that read 4 bytes per element of float32: take the faster as the limit."""
    a = torch.rand(elements)
    return [
        Candidate("read: torch.sum(a)", lambda: torch.sum(a)),
        Candidate("read: torch.dot(a, a)", lambda: torch.dot(a, a)),
    ]


# What a spinning child runs: it says when it started, and ends when its parent does.
_SPIN = """
import os, sys
parent = os.getppid()
print("on", flush=True)
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextlib.contextmanager
def busy_cores(children: int) -> Iterator[None]:
    """Keep `children` processes spinning meanwhile."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(children):
            command = [sys.executable, "-S", "-c", _SPIN]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        for child in running:
            assert child.stdout is not None
            child.stdout.readline()
        yield
    finally:
        for child in running:
            child.kill()
            child.communicate()


def usable_cores() -> int:
    """The number of cores this process may run on."""
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, object]:
    """What the figures depend on: CPU, levels, torch, BLAS, cores."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    cpu = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    of_torch = getattr(torch.backends, "cpu", None)  # torch 2.1
    return {
        "cpu": cpu.group(1) if cpu else platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "level": _package_level(),
        "torch": torch.__version__,
        "torch_level": of_torch.get_cpu_capability() if of_torch else "unknown",
        "blas": blas.group(1) if blas else "unknown",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def _package_level() -> str:
    """The instruction level the package's kernels run at."""
    from yolov5_utils import _C

    return str(_C.info()["level"])


def machine_line(about: dict[str, object]) -> str:
    """`machine()` as one line."""
    return (
        f"{about['cpu']}, {about['cores']} cores, package level {about['level']}; "
        f"torch {about['torch']} ({about['torch_level']}, BLAS {about['blas']}), "
        f"Python {about['python']}; load {about['load']} at the start"
    )


class Column(NamedTuple):
    """A heading, the key of its values in a row, how a value is written."""

    heading: str
    key: str
    form: str = "{}"


class Table(NamedTuple):
    """Rows of raw values, and how to show them."""

    title: str
    columns: Sequence[Column]
    rows: list[dict[str, Any]]
    notes: list[str]

    def cells(self) -> list[list[str]]:
        """Headings and rows as text; an absent value is an empty cell."""
        lines = [[column.heading for column in self.columns]]
        for row in self.rows:
            values = [(row.get(column.key), column.form) for column in self.columns]
            lines.append(["" if value is None else form.format(value) for value, form in values])
        return lines

    def text(self) -> str:
        """Aligned columns; text to the left, figures to the right."""
        cells = self.cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        right = [column.form != "{}" for column in self.columns]
        lines = [self.title]
        for line in cells:
            padded = [
                cell.rjust(width) if flush else cell.ljust(width)
                for cell, width, flush in zip(line, widths, right, strict=True)
            ]
            lines.append("  " + "  ".join(padded).rstrip())
        return "\n".join(lines + [f"  {note}" for note in self.notes])

    def markdown(self) -> str:
        """The same as a Markdown section."""
        heading, *rows = self.cells()
        marks = ["---:" if column.form != "{}" else "---" for column in self.columns]
        lines = [f"| {' | '.join(line)} |" for line in [heading, marks, *rows]]
        notes = [f"\n{note}" for note in self.notes]
        return "\n".join([f"### {self.title}", "", *lines, *notes])


MODEL, WHO, TARGET = (Column(key, key) for key in ("model", "who", "target"))
TIMES = (Column("min ms", "min_ms", "{:.3f}"), Column("median ms", "median_ms", "{:.3f}"))
FASTER = (
    Column("package faster by", "ratio", "{:.2f}×"),
    Column("by medians", "ratio_median", "{:.2f}×"),
)
# The columns of a table of speeds, and the keys of the rows `speed_rows` makes.
SPEED_COLUMNS = (
    *(MODEL, Column("threads", "threads", "{:d}"), WHO, *TIMES, *FASTER),
    Column("limit faster by", "ceiling", "{:.2f}×"),
    TARGET,
    Column("GB/s", "gb_per_s", "{:.1f}"),
    Column("of the limit", "share", "{:.0%}"),
    Column("host share", "host_share", "{:.0%}"),
)


# Candidates that `speed_rows` knows: the measure of all, and the package on a model of two-element
# tensors, whose time is not of interest by itself.
PACKAGE, HOST = "package", "host"
BEST_PEER = "(best peer)"


def speed_rows(
    timings: dict[str, Timing],
    case: Mapping[str, object],
    *,
    moved_bytes: int,
    limits: Sequence[str],
    original: str | None = None,
    targets: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """One row per candidate but HOST, each with the values of `case`; PACKAGE measures all.

    `limits` names the candidates that only move `moved_bytes`; the fastest of them is the limit
    that PACKAGE is held against. `targets` are by candidate; where an `original` is named, the
    fastest of the others but the package's gets that of BEST_PEER, and a name that says so.
    """
    targets = targets or {}
    package = timings[PACKAGE]
    limit = min(timings[name].best_s for name in limits)
    rows = []
    for name, timing in timings.items():
        if name == HOST:
            continue
        row: dict[str, Any] = {**case, "who": name, **timing.in_ms(), "calls": timing.calls}
        row["target"] = targets.get(name)
        if name == PACKAGE or name in limits:
            row["gb_per_s"] = moved_bytes / timing.best_s / 1e9
        if name == PACKAGE:
            row["share"] = limit / timing.best_s
            if HOST in timings:
                row["host_share"] = timings[HOST].best_s / timing.best_s
        elif name not in limits:
            row.update(faster_by(package, timing), ceiling=timing.best_s / limit)
        rows.append(row)
    if original is not None:
        others = [row for row in rows if "ratio" in row and row["who"] != original]
        peers = [row for row in others if not row["who"].startswith(PACKAGE)]
        best = min(peers, key=lambda row: row["min_ms"])
        best["who"] += f" {BEST_PEER}"
        best["target"] = targets.get(BEST_PEER, best["target"])
    return rows


def faster_by(own: Timing, other: Timing) -> dict[str, float]:
    """The values of FASTER."""
    return {"ratio": other.best_s / own.best_s, "ratio_median": other.median_s / own.median_s}


def parser(description: str, devices: Sequence[str] = ("cpu", "cuda")) -> argparse.ArgumentParser:
    """The options that the benchmarks of speed share."""
    options = argparse.ArgumentParser(description=description)
    add_models(options, "n,s,x")
    options.add_argument("--device", choices=devices, default="cpu")
    options.add_argument(
        "--threads", type=counts_of, default="1,2", help="torch threads (default %(default)s)"
    )
    options.add_argument("--seconds", type=float, default=6.0, help="per model and thread count")
    add_json(options)
    return options


def add_models(options: argparse.ArgumentParser, default: str) -> None:
    """The option for the models to measure."""
    told = "of n,s,m,l,x (default %(default)s)"
    options.add_argument("--models", type=names_of, default=default, help=told)


def add_json(options: argparse.ArgumentParser) -> None:
    """The option for the figures in a file."""
    options.add_argument("--json", type=Path, help="write the raw figures to this file")


def run(
    options: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], list[Table]],
    on_gpu: Callable[[argparse.Namespace], None] | None = None,
) -> None:
    """Measure and show what the command line asks for; with --device cuda, `on_gpu` does it all."""
    chosen = options.parse_args()
    if on_gpu is not None and chosen.device == "cuda":
        on_gpu(chosen)
    else:
        about = machine()  # here, since measuring counts as load
        show(about, measure(chosen), chosen.json)


def names_of(argument: str) -> list[str]:
    """The parts of a comma-separated option."""
    return [part.strip() for part in argument.split(",") if part.strip()]


def counts_of(argument: str) -> list[int]:
    """The numbers of a comma-separated option."""
    return [int(part) for part in names_of(argument)]


def around_marks(path: Path, begin: str, end: str) -> tuple[str, str]:
    """What stands before the mark `begin`, and from the mark `end` on; ValueError if one lacks."""
    text = path.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
        raise ValueError(f"{path}: needs one line {begin} and after it one line {end}")
    return text[: text.index(begin)], text[text.index(end) :]


def write_between_marks(path: Path, begin: str, end: str, sections: Sequence[str]) -> None:
    """Replace what stands between the two marks of `path`."""
    head, tail = around_marks(path, begin, end)
    path.write_text("\n\n".join([head + begin, *sections, tail]))


def show(about: dict[str, object], tables: Sequence[Table], json_path: Path | None) -> None:
    """Print everything, and write it to `json_path` where one is given."""
    print(machine_line(about))
    for table in tables:
        print(f"\n{table.text()}", flush=True)
    if json_path is not None:
        write_json(content(about, tables), json_path)


def content(about: dict[str, object], tables: Sequence[Table]) -> dict[str, Any]:
    """Everything measured, as plain dicts and lists."""
    sections = [{"title": t.title, "rows": t.rows, "notes": t.notes} for t in tables]
    return {"machine": about, "tables": sections}


def write_json(measured: dict[str, Any], path: Path) -> None:
    """Write what `content` gave."""
    path.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n")
