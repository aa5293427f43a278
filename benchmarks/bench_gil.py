"""From which size on ModelEMA.update should let other Python threads run: sets DEFAULT_GIL_BYTES.

Letting them run has a price (an alias for every tensor, so that nobody can free its memory), and
keeping them waiting has another: each waits for as long as the call lasts, which Python itself
imposes for sys.getswitchinterval() between threads that compute.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from functools import partial

import torch

from yolov5_utils import _C
from yolov5_utils.ops.ema import update_modules

from . import harness, models

COLUMNS = (
    harness.MODEL,
    harness.Column("MB moved", "megabytes", "{:.0f}"),
    harness.Column("GIL kept, ms", "kept_ms", "{:.3f}"),
    harness.Column("GIL released, ms", "released_ms", "{:.3f}"),
    harness.Column("price of releasing", "price", "{:.1%}"),
    harness.Column("released by default", "default"),
)


def _update(average: torch.nn.Module, source: torch.nn.Module, gil_bytes: int) -> None:
    _C.configure(gil_bytes=gil_bytes)
    update_modules(average, source, 0.999)


def table(names: list[str], seconds: float) -> harness.Table:
    """One row per model: the update with and without the GIL, taking turns."""
    torch.set_num_threads(1)
    before = _C.configure()
    rows = []
    for name in names:
        source = models.build(name)
        average = deepcopy(source)
        candidates = [
            harness.Candidate("kept", partial(_update, average, source, 2**62)),
            harness.Candidate("released", partial(_update, average, source, 0)),
        ]
        try:
            timings = harness.interleave(candidates, seconds)
        finally:
            _C.configure(**before)
        kept, released = (timings[name].hot.median_s * 1e3 for name in ("kept", "released"))
        moved = 12 * models.count(source).float_elements
        row = {"model": name, "megabytes": moved / 1e6, "kept_ms": kept, "released_ms": released}
        row["price"] = released / kept - 1
        row["default"] = "yes" if moved >= before["gil_bytes"] else "no"
        rows.append(row)
    interval = sys.getswitchinterval() * 1e3
    notes = [f"a waiting Python thread waits {interval:.0f} ms in any case (sys.getswitchinterval)"]
    return harness.Table("Releasing the GIL", COLUMNS, rows, notes)


if __name__ == "__main__":
    harness.run(
        harness.parser(__doc__ or "", devices=("cpu",)),
        lambda chosen: [table(chosen.models, chosen.seconds)],
    )
