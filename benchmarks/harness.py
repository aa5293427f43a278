"""Timing, bandwidth, machine description and tables shared by all benchmarks.

Figures are ratios taken in one process: candidates take turns, so that a slow moment of a shared
machine hits all of them. Must not know any hot path.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import torch

# A turn repeats short calls for about this long: long enough for figures of hot caches, short
# enough that ten candidates meet the same state of the machine.
TURN_S = 0.004
# More calls than this in one turn add nothing to a median.
MAX_CALLS_PER_TURN = 40
MIN_ROUNDS = 3
# A call of this length does not gain from caches filled by one before it: it counts as both.
LONG_CALL_S = 1.0
# So much memory is written before a cold call: more than the caches of a core that others keep.
TOUCHED_BYTES = 64 * 2**20


class Candidate(NamedTuple):
    """One of the callables compared."""

    name: str
    call: Callable[[], object]
    prepare: Callable[[], object] | None = None  # untimed, at the start of each turn
    renew: Callable[[], object] | None = None  # untimed, before every call


class Timing(NamedTuple):
    """The timed calls of one candidate in one state of the caches, in seconds."""

    best_s: float
    quartile_s: float  # a quarter of the calls took less: steadier than the median beside others
    median_s: float
    calls: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """The figures of at least two calls."""
        quartile, median, _ = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(min(samples), quartile, median, len(samples))


class Timings(NamedTuple):
    """Both states: caches emptied before the call, as the rest of a program leaves them, and full
    of what the same call has just used."""

    cold: Timing
    hot: Timing


def many(function: Callable[[], object], calls: int) -> Callable[[], None]:
    """So many calls of the function, each too short for a clock."""

    def run() -> None:
        for _ in repeat(None, calls):
            function()

    return run


def interleave(candidates: Sequence[Candidate], seconds: float) -> dict[str, Timings]:
    """Time the candidates A B C, A B C … for `seconds` in all, at least MIN_ROUNDS rounds.

    A turn is one cold call and then some hot ones.
    """
    names = [candidate.name for candidate in candidates]
    if len(set(names)) != len(names):
        raise ValueError(f"candidates: names must differ, got {names}")
    cold: dict[str, list[float]] = {name: [] for name in names}
    hot: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        rounds = 0
        while rounds < MIN_ROUNDS or time.perf_counter() < end:
            for candidate in candidates:
                first, others = _turn(candidate)
                cold[candidate.name].append(first)
                hot[candidate.name] += others
            rounds += 1
    finally:
        if was_enabled:
            gc.enable()
    return {name: Timings(Timing.of(cold[name]), Timing.of(hot[name])) for name in names}


def _turn(candidate: Candidate) -> tuple[float, list[float]]:
    """The seconds of the cold call of one turn, and of its hot ones."""
    if candidate.prepare is not None:
        candidate.prepare()
    first = _timed(candidate, cold=True)
    if first >= LONG_CALL_S:
        return first, [first]
    calls = max(1, min(MAX_CALLS_PER_TURN, int(TURN_S / max(first, 1e-9))))
    return first, [_timed(candidate) for _ in range(calls)]


def _timed(candidate: Candidate, cold: bool = False) -> float:
    """The seconds of one call."""
    if candidate.renew is not None:
        candidate.renew()
    if cold:
        touch()
    call, clock = candidate.call, time.perf_counter
    start = clock()
    call()
    return clock() - start


def touch() -> None:
    """Leave nothing in the caches that was there before, on each of torch's threads."""
    _touched().add_(1)


@functools.cache
def _touched() -> torch.Tensor:
    return torch.zeros(TOUCHED_BYTES // 4)


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
        "build": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU",
        "threads": torch.get_num_threads(),
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
        f"torch {about['torch']} ({about['build']} build, {about['torch_level']}, "
        f"BLAS {about['blas']}, {about['threads']} threads by default), "
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


# The states in which calls are timed. Keys of rows begin with them, and the first that a row has is
# the one that counts: cold caches are what a call meets in a real program.
STEP, COLD, HOT = STATES = ("step", "cold", "hot")
MODEL, WHO = (Column(key, key) for key in ("model", "who"))
THREADS = Column("threads", "threads", "{:d}")


def times_of(*states: str, unit: str = "ms") -> list[Column]:
    """The columns of the times in these states."""
    form = "{:.3f}" if unit == "ms" else "{:.1f}"
    return [
        Column(heading.format(state=state, unit=unit), f"{state}_{key}_{unit}", form)
        for state in states
        for heading, key in (("{state}, {unit}", "median"), ("lower quartile", "quartile"))
    ]


def speeds_of(*states: str) -> list[Column]:
    """The columns of times and ratios in these states."""
    ratios = ("package faster by", "ratio"), ("by lower quartiles", "ratio_quartile")
    return [
        column
        for state in states
        for column in (
            *times_of(state),
            *(Column(heading, f"{state}_{key}", "{:.2f}×") for heading, key in ratios),
        )
    ]


# The columns of a table of speeds, and the keys of the rows `speed_rows` makes.
SPEED_COLUMNS = (
    *(MODEL, THREADS, WHO, *speeds_of(COLD, HOT)),
    Column("of the limit, cold", "cold_share", "{:.0%}"),
    Column("hot", "hot_share", "{:.0%}"),
)
# Candidates that `speed_rows` knows by how their names begin: what is measured, the package's other
# ways, and YOLOv5's own. All others are limits or peers.
PACKAGE, ORIGINAL = "package", "original"
BEST_PEER = " (best peer)"


def times(state: str, timing: Timing, unit: str = "ms", calls: int = 1) -> dict[str, float]:
    """The values of `times_of`, of which a timed call made so many."""
    per_s = {"ms": 1e3, "µs": 1e6, "ns": 1e9}[unit] / calls
    taken_s = {"median": timing.median_s, "quartile": timing.quartile_s}
    return {f"{state}_{name}_{unit}": value * per_s for name, value in taken_s.items()}


def faster_by(state: str, own: Timing, other: Timing) -> dict[str, float]:
    """How often the own time goes into the other's."""
    return {
        f"{state}_ratio": other.median_s / own.median_s,
        f"{state}_ratio_quartile": other.quartile_s / own.quartile_s,
    }


def speed_rows(
    timings: Mapping[str, Timings], case: Mapping[str, object], limits: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One row per candidate, each with the values of `case`; PACKAGE measures all.

    `limits` names the candidates that only move the bytes that cannot be avoided; the fastest of
    them is the limit that PACKAGE is held against.
    """
    rows = []
    for name, both in timings.items():
        row: dict[str, Any] = {**case, "who": name}
        for state, timing in both._asdict().items():
            own = getattr(timings[PACKAGE], state)
            row.update(times(state, timing))
            if name == PACKAGE and limits:
                limit = min(getattr(timings[one], state).median_s for one in limits)
                row[f"{state}_share"] = limit / timing.median_s
            elif name != PACKAGE and name not in limits:
                row.update(faster_by(state, own, timing))
        rows.append(row)
    mark_best_peer(rows)
    return rows


def first_of(row: Mapping[str, Any], key: str) -> Any:
    """A value in the state that counts, None where the row has none."""
    return next((row[f"{state}_{key}"] for state in STATES if f"{state}_{key}" in row), None)


def mark_best_peer(rows: Sequence[dict[str, Any]]) -> None:
    """Say so behind the name of the fastest that is neither the package nor the original."""
    peers = [
        row
        for row in rows
        if first_of(row, "ratio") is not None and not row["who"].startswith((PACKAGE, ORIGINAL))
    ]
    if peers:
        min(peers, key=lambda row: first_of(row, "ratio"))["who"] += BEST_PEER


def parser(description: str, devices: Sequence[str] = ("cpu", "cuda")) -> argparse.ArgumentParser:
    """The options that the benchmarks of speed share."""
    options = argparse.ArgumentParser(description=description)
    add_models(options, "n,s,x")
    options.add_argument("--device", choices=devices, default="cpu")
    options.add_argument(
        "--threads", type=counts_of, default="1,2", help="torch threads (default %(default)s)"
    )
    options.add_argument("--seconds", type=float, default=4.0, help="per model and thread count")
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
    measure: Callable[[argparse.Namespace], Iterable[Table]],
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


def show(about: dict[str, object], tables: Iterable[Table], json_path: Path | None) -> list[Table]:
    """Print everything as soon as it is measured, and write it to `json_path` if one is given."""
    print(machine_line(about))
    shown = []
    for table in tables:
        print(f"\n{table.text()}", flush=True)
        shown.append(table)
    if json_path is not None:
        write_json(content(about, shown), json_path)
    return shown


def content(about: dict[str, object], tables: Sequence[Table]) -> dict[str, Any]:
    """Everything measured, as plain dicts and lists."""
    sections = [{"title": t.title, "rows": t.rows, "notes": t.notes} for t in tables]
    return {"machine": about, "tables": sections}


def write_json(measured: dict[str, Any], path: Path) -> None:
    """Write what `content` gave."""
    path.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n")
