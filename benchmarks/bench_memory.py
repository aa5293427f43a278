"""Memory that a hot path needs beside the model: growth of the peak, and growth over many calls.

Every figure comes from a fresh process: the kernel's peak counter belongs to a whole process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from . import harness, models, peers

REPOSITORY = Path(__file__).resolve().parent.parent
# Writing this to clear_refs sets the peak (VmHWM) back to what is resident now: proc(5).
RESET_PEAK = "5"
WARM_CALLS = 10
COLUMNS = (
    *(harness.Column("path", "path"), harness.MODEL, harness.WHO),
    harness.Column("peak above start, KiB", "peak_kib", "{:,d}"),
    harness.Column("calls", "calls", "{:,d}"),
    harness.Column("resident after them, KiB", "growth_kib", "{:+,d}"),
)


def status_kib(field: str) -> int:
    """A field of /proc/self/status, such as VmRSS or VmHWM, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def the_call(path: str, who: str, model: str) -> Callable[[], object]:
    """The call whose memory is measured."""
    from yolov5_utils.torch_utils import ModelEMA, sparsity

    source = models.build(model, seed=1)
    if path == "sparsity":
        function = sparsity if who == "package" else peers.original_sparsity
        return lambda: function(source)
    start = models.build(model, seed=0)
    average = ModelEMA(start, peers.DECAY) if who == "package" else peers.OriginalEMA(start)
    return lambda: average.update(source)


def measure_here(path: str, who: str, model: str, calls: int) -> dict[str, object]:
    """The figures of one call repeated, in this process.

    The peak is that of the first call after one on a tiny model, so that what torch allocates once
    (threads, tables) is not counted and what grows with the model is.
    """
    torch.set_num_threads(1)
    tiny = models.skeleton(models.build("n"))
    peers.original_sparsity(tiny)
    call = the_call(path, who, model)
    the_call(path, who, "n")()
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    before = status_kib("VmHWM")
    call()
    peak = status_kib("VmHWM") - before
    for _ in range(WARM_CALLS):
        call()
    resident = status_kib("VmRSS")
    for _ in range(calls):
        call()
    growth = status_kib("VmRSS") - resident
    return {"peak_kib": peak, "growth_kib": growth}


def measure(path: str, who: str, model: str, calls: int) -> dict[str, object]:
    """`measure_here` in a fresh process."""
    arguments = [path, who, model, str(calls)]
    command = [sys.executable, "-m", "benchmarks.bench_memory", "--child", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    row = {"path": path, "who": who, "model": model, "calls": calls}
    row.update(json.loads(done.stdout))
    return row


def table(names: list[str], calls: int) -> harness.Table:
    """Both paths, package and original, for `names`; `calls` on the first model, 20 on others."""
    rows = [
        measure(path, who, name, calls if name == names[0] else 20)
        for path in ("ModelEMA.update", "sparsity")
        for who in ("original", "package")
        for name in names
    ]
    notes = [
        "peak: largest resident memory during one call, above that before it, 1 thread",
        "the kernel counts resident pages with a slack of up to some hundred KiB",
    ]
    return harness.Table("Memory", COLUMNS, rows, notes)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    harness.add_models(options, "n,x")
    options.add_argument("--calls", type=int, default=1000)
    harness.add_json(options)
    if sys.argv[1:2] == ["--child"]:  # a process that `measure` started
        path, who, model, calls = sys.argv[2:]
        print(json.dumps(measure_here(path, who, model, int(calls))))
    else:
        harness.run(options, lambda chosen: [table(chosen.models, chosen.calls)])
