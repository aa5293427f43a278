"""time_synchronized: YOLOv5's two lines, time.time and the package, interleaved."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from yolov5_utils.torch_utils import time_synchronized

from . import checks, harness, peers

ORIGINAL = "original (is_available, synchronize, time)"
# One call is too short for a clock: this many are timed together.
CALLS = 1000
COLUMNS = (
    *(harness.Column("device", "model"), harness.WHO),
    *harness.times_of(harness.HOT, unit="ns"),
    *harness.speeds_of(harness.HOT)[2:],
)


def assert_ran_in_c() -> None:
    """The package reads the same clock, in C."""
    with checks.ran("time_synchronized"):
        earliest = time.time()
        assert earliest <= time_synchronized() <= time.time()


def measure(seconds: float) -> list[dict[str, Any]]:
    """The rows, on the GPU there is or without one."""
    assert_ran_in_c()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # initialises CUDA
    called = {
        ORIGINAL: peers.original_time_synchronized,
        "time.time": time.time,
        harness.PACKAGE: time_synchronized,
    }
    timings = harness.interleave(
        [harness.Candidate(name, harness.many(call, CALLS)) for name, call in called.items()],
        seconds,
    )
    package = timings[harness.PACKAGE].hot
    rows = []
    for who, (_, timing) in timings.items():
        device = "idle GPU" if torch.cuda.is_available() else "no GPU"
        row: dict[str, Any] = {"model": device, "who": who, "threads": 1}
        row.update(harness.times(harness.HOT, timing, "ns", CALLS))
        if timing is not package:
            row.update(harness.faster_by(harness.HOT, package, timing))
        rows.append(row)
    harness.mark_best_peer(rows)
    return rows


def table(seconds: float) -> harness.Table:
    """The table of speeds."""
    notes = [
        f"the time of {CALLS} calls over their number, the loop's 10 ns or so included; only hot: "
        "one call is too short for a clock"
    ]
    return harness.Table("time_synchronized", COLUMNS, measure(seconds), notes)


def tables(names: list[str], seconds: float) -> Iterator[harness.Table]:
    """All tables of this path, for the report."""
    yield table(min(seconds, 3.0))


if __name__ == "__main__":
    harness.run(
        harness.parser(__doc__ or "", devices=("cpu",)),  # a GPU is only waited for
        lambda chosen: [table(chosen.seconds)],
    )
