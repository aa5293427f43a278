"""time_synchronized: YOLOv5's two lines, time.time and the package, interleaved."""

from __future__ import annotations

import time
from typing import Any

import torch

from yolov5_utils.torch_utils import time_synchronized

from . import checks, harness, peers

ORIGINAL = "original (is_available, synchronize, time)"
# One call is too short for a clock: this many are timed together.
CALLS = 1000
TARGETS = {ORIGINAL: "≥ 10×", "time.time": "≥ 0.5×"}
COLUMNS = (
    *(harness.Column("device", "model"), harness.WHO),
    harness.Column("min ns", "min_ns", "{:.0f}"),
    harness.Column("median ns", "median_ns", "{:.0f}"),
    *(*harness.FASTER, harness.TARGET),
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
        "package": time_synchronized,
    }
    timings = harness.interleave(
        [harness.Candidate(name, harness.many(call, CALLS)) for name, call in called.items()],
        seconds,
    )
    package, rows = timings["package"], []
    device = "idle GPU" if torch.cuda.is_available() else "no GPU"
    for who, timing in timings.items():
        row: dict[str, Any] = {"model": device, "who": who, "threads": 1}
        for name, taken_s in (("min", timing.best_s), ("median", timing.median_s)):
            row[f"{name}_ms"] = taken_s * 1e3 / CALLS
            row[f"{name}_ns"] = taken_s * 1e9 / CALLS
        if who != "package":
            row.update(harness.faster_by(package, timing))
            if device == "no GPU":
                row.update(target=TARGETS[who])
        rows.append(row)
    return rows


def table(seconds: float) -> harness.Table:
    """The table of speeds."""
    notes = [f"the time of {CALLS} calls over their number, the loop's 10 ns or so included"]
    return harness.Table("time_synchronized", COLUMNS, measure(seconds), notes)


def tables(names: list[str], seconds: float) -> list[harness.Table]:
    """All tables of this path, for the report."""
    return [table(min(seconds, 3.0))]


if __name__ == "__main__":
    harness.run(
        harness.parser(__doc__ or "", devices=("cpu",)),  # a GPU is only waited for
        lambda chosen: [table(chosen.seconds)],
    )
