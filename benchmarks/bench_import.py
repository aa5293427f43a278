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
TARGET = "< 20 ms"
# An installed package has its byte code; with this variable the checkout would be compiled anew.
NO_BYTE_CODE = "PYTHONDONTWRITEBYTECODE"
REPOSITORY = Path(__file__).resolve().parent.parent
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
    harness.Column("median ms", "median_ms", "{:.2f}"),
    harness.Column("min ms", "min_ms", "{:.2f}"),
    harness.Column("import torch before it, median ms", "torch_ms", "{:.0f}"),
    harness.Column("target", "target"),
)


def import_ms(module: str) -> tuple[float, float]:
    """(torch, then `module`) in milliseconds in a process of its own."""
    command = [sys.executable, "-c", _CHILD, module]
    variables = {name: value for name, value in os.environ.items() if name != NO_BYTE_CODE}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=variables, stdout=subprocess.PIPE, text=True, check=True
    )
    torch_ms, module_ms = map(float, done.stdout.split())
    return torch_ms, module_ms


def table(processes: int) -> harness.Table:
    """Medians over `processes` fresh processes for each module, taking turns."""
    taken: dict[str, list[tuple[float, float]]] = {module: [] for module in MODULES}
    for module in MODULES:
        import_ms(module)  # the first one writes byte code and reads the disk
    for _ in range(processes):
        for module in MODULES:
            taken[module].append(import_ms(module))
    rows = []
    for module, pairs in taken.items():
        added = [pair[1] for pair in pairs]
        row = {"module": module, "median_ms": statistics.median(added), "min_ms": min(added)}
        row.update(torch_ms=statistics.median(pair[0] for pair in pairs), target=TARGET)
        rows.append(row)
    notes = [f"added to `import torch`; {processes} fresh processes each, taking turns"]
    return harness.Table("Import time", COLUMNS, rows, notes)


# As `site` treats a line of a start-up file: compiled anew and executed.
_START = """
import sys, time
line = open(sys.argv[1]).read()
start = time.perf_counter()
exec(line)
print((time.perf_counter() - start) * 1e3)
"""
_START_COLUMNS = (
    harness.Column("YOLOV5_UTILS_OVERLAY", "value"),
    harness.Column("median ms", "median_ms", "{:.3f}"),
    harness.Column("min ms", "min_ms", "{:.3f}"),
    harness.Column("target", "target"),
)


def start_up_table(processes: int) -> harness.Table:
    """What the start-up file costs a process that has imported nothing, off and on."""
    command = [sys.executable, "-c", _START, str(REPOSITORY / "yolov5_utils_overlay.pth")]
    taken: dict[str, list[float]] = {"not set": [], "0": [], "1": []}
    for turn in range(processes + 1):
        for value, times in taken.items():
            environment = {k: v for k, v in os.environ.items() if k != "YOLOV5_UTILS_OVERLAY"}
            if value != "not set":
                environment["YOLOV5_UTILS_OVERLAY"] = value
            done = subprocess.run(
                command,
                cwd=REPOSITORY,
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            if turn:  # the first one writes byte code and reads the disk
                times.append(float(done.stdout))
    rows = [
        {
            "value": value,
            "median_ms": statistics.median(times),
            "min_ms": min(times),
            "target": "" if value == "1" else "< 1 ms",
        }
        for value, times in taken.items()
    ]
    return harness.Table("Start-up file", _START_COLUMNS, rows, [f"{processes} processes each"])


def main(arguments: list[str]) -> None:
    """Run from the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--processes", type=int, default=15, help="per module")
    options.add_argument("--json", type=Path, help="write the raw figures to this file")
    chosen = options.parse_args(arguments)
    tables = [table(chosen.processes), start_up_table(chosen.processes)]
    harness.show(harness.machine(), tables, chosen.json)


if __name__ == "__main__":
    main(sys.argv[1:])
