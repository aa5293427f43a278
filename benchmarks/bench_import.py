"""What importing the package adds to `import torch`, and the start-up file to every Python."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from . import harness

MODULES = ("yolov5_utils", "yolov5_utils.torch_utils")
# An installed package has its byte code; with this variable the checkout would be compiled anew.
NO_BYTE_CODE = "PYTHONDONTWRITEBYTECODE"
REPOSITORY = Path(__file__).resolve().parent.parent
FIGURES = (
    harness.Column("median ms", "median_ms", "{:.2f}"),
    harness.Column("lower quartile", "quartile_ms", "{:.2f}"),
)
# The child prints how long torch took and how long the module took after it, in ms.
_CHILD = """
import sys, time
start = time.perf_counter()
import torch
middle = time.perf_counter()
__import__(sys.argv[1])
end = time.perf_counter()
print((middle - start) * 1e3, (end - middle) * 1e3)
"""
COLUMNS = (
    harness.Column("import", "module"),
    *FIGURES,
    harness.Column("import torch before it, median ms", "torch_ms", "{:.0f}"),
)


def printed(*command: str, without: str, **variables: str) -> tuple[float, ...]:
    """The numbers that a fresh Python prints, in an environment that lacks one variable or has it
    of `variables`."""
    kept = {name: value for name, value in os.environ.items() if name != without}
    done = subprocess.run(
        [sys.executable, "-c", *command],
        cwd=REPOSITORY,
        env=kept | variables,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return tuple(map(float, done.stdout.split()))


def of(times_ms: list[float]) -> dict[str, float]:
    """The values of FIGURES."""
    quartile, median, _ = statistics.quantiles(times_ms, n=4, method="inclusive")
    return {"median_ms": median, "quartile_ms": quartile}


def table(processes: int) -> harness.Table:
    """Medians over `processes` fresh processes for each module, taking turns."""
    taken: dict[str, list[tuple[float, ...]]] = {module: [] for module in MODULES}
    for turn in range(processes + 1):
        for module, pairs in taken.items():
            times = printed(_CHILD, module, without=NO_BYTE_CODE)
            if turn:  # the first one writes byte code and reads the disk
                pairs.append(times)
    rows = []
    for module, pairs in taken.items():
        torch_ms, added_ms = (list(times) for times in zip(*pairs, strict=True))
        row = {"module": module, **of(added_ms), "torch_ms": statistics.median(torch_ms)}
        rows.append(row)
    notes = [
        f"added to `import torch`; {processes} fresh processes each, taking turns; with byte code, "
        "as an installed package has it"
    ]
    return harness.Table("Import time", COLUMNS, rows, notes)


# As `site` treats a line of a start-up file: compiled anew and executed.
_START = """
import sys, time
line = open(sys.argv[1]).read()
start = time.perf_counter()
exec(line)
print((time.perf_counter() - start) * 1e3)
"""
_START_COLUMNS = (harness.Column("YOLOV5_UTILS_OVERLAY", "value"), *FIGURES)


def start_up_table(processes: int) -> harness.Table:
    """What the start-up file costs a process that has imported nothing, off and on."""
    file, switch = str(REPOSITORY / "yolov5_utils_overlay.pth"), "YOLOV5_UTILS_OVERLAY"
    taken: dict[str, list[float]] = {"not set": [], "0": [], "1": []}
    for turn in range(processes + 1):
        for value, times in taken.items():
            variables = {} if value == "not set" else {switch: value}
            (time_ms,) = printed(_START, file, without=switch, **variables)
            if turn:  # the first one writes byte code and reads the disk
                times.append(time_ms)
    rows = [{"value": value, **of(times)} for value, times in taken.items()]
    return harness.Table("Start-up file", _START_COLUMNS, rows, [f"{processes} processes each"])


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--processes", type=int, default=15, help="per module")
    harness.add_json(options)
    harness.run(options, lambda chosen: [table(chosen.processes), start_up_table(chosen.processes)])
