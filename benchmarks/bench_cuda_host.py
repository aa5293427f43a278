"""Host time of ModelEMA.update on a GPU, without a GPU: from the call to the library, which here
computes nothing.

What is timed is the package's own code as it runs for CUDA tensors: walk, checks, torch's
exchange table, the list for the library, version counters. tests/cuda makes the CPU's tensors pass
for a GPU's, which costs a comparison per tensor; what the CUDA driver takes for one launch, a few
microseconds, comes on top.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.cuda.stand_in import build, compiler, record_of, stand_in
from yolov5_utils.torch_utils import ModelEMA

from . import harness, models, peers

PACKAGE = "package, to the launch"
WALKS = "two state_dict() alone, as the original begins"
COLUMNS = (
    *(harness.MODEL, harness.WHO),
    *harness.times_of(harness.COLD, harness.HOT, unit="µs"),
    harness.Column("tensors", "tensors", "{:d}"),
    harness.Column("launches of the original", "launches", "{:d}"),
)
LAUNCHES_PER_TENSOR = 3  # mul_, mul, add_


def measure(name: str, seconds: float, folder: Path) -> list[dict[str, Any]]:
    """The rows of one model."""
    start, source = models.build(name), models.build(name, seed=1)
    average = ModelEMA(start, peers.DECAY)
    library = build("fake_library.c", folder)
    with stand_in(build("stand_in.c", folder), library):
        record = record_of(library)
        before = record.calls
        average.update(source)
        tensors = record.count
        assert record.calls == before + 1, "the update did not reach the library"
        compared = [
            harness.Candidate(PACKAGE, lambda: average.update(source)),
            harness.Candidate(WALKS, lambda: (average.ema.state_dict(), source.state_dict())),
        ]
        timings = harness.interleave(compared, seconds)
    rows = []
    for who, both in timings.items():
        row: dict[str, Any] = {"model": name, "who": who}
        for state, timing in both._asdict().items():
            row.update(harness.times(state, timing, "µs"))
        if who == PACKAGE:
            row.update(tensors=tensors, launches=LAUNCHES_PER_TENSOR * tensors)
        rows.append(row)
    return rows


def table(names: list[str], seconds: float) -> harness.Table:
    """The table of host times; empty, with a note, where no compiler makes the stand-in."""
    title, notes = "Host time of the EMA on a GPU, by a stand-in", []
    if compiler() is None:
        return harness.Table(title, COLUMNS, [], ["no C compiler: not measured"])
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in names for row in measure(name, seconds, Path(folder))]
    notes.append("the driver's part of a launch is not in it")
    return harness.Table(title, COLUMNS, rows, notes)


if __name__ == "__main__":
    harness.run(
        harness.parser(__doc__ or "", devices=("cpu",)),
        lambda chosen: [table(chosen.models, chosen.seconds)],
    )
