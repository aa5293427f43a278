"""sparsity: YOLOv5's formula, a count_nonzero loop and the package, interleaved."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from yolov5_utils.ops import OPERATIONS
from yolov5_utils.torch_utils import sparsity

from . import bench_cuda, harness, models, peers

BYTES_PER_ELEMENT = 4  # every parameter read once
ORIGINAL = "original (==, sum)"
# Faster than the original, faster than count_nonzero: by model and torch threads.
TARGETS = {("n", 1): ("≥ 18×", "≥ 6×"), ("x", 1): ("≥ 10.5×", "≥ 2.5×")}
# Zeros of the model whose value is checked: about as many as prune leaves.
CHECKED_ZEROS = 0.3


def with_zeros(name: str, share: float) -> nn.Module:
    """A model with about this share of zeros, spread at random."""
    model = models.build(name)
    generator = torch.Generator().manual_seed(0)
    if share > 0:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter[torch.rand(parameter.shape, generator=generator) < share] = 0
    return model


def assert_same_value(model: nn.Module) -> None:
    """The package returns the original's value, and got it from C."""
    calls = OPERATIONS["sparsity"].calls
    before = calls["C"]
    found, expected = sparsity(model), peers.original_sparsity(model)
    assert calls["C"] == before + 1, f"ran in torch: {OPERATIONS['sparsity'].reasons}"
    assert found.dtype == expected.dtype, (found, expected)
    assert found.item() == expected.item(), (found, expected)


def measure(name: str, threads: int, seconds: float, zeros: float) -> list[dict[str, Any]]:
    """The rows of one model at one thread count."""
    model = with_zeros(name, zeros)
    small = models.skeleton(model)
    elements = models.count(model).parameters
    torch.set_num_threads(threads)
    assert_same_value(with_zeros(name, CHECKED_ZEROS))
    assert_same_value(model)
    limits = harness.read_bandwidth(elements)
    compared = [
        harness.Candidate(ORIGINAL, lambda: peers.original_sparsity(model)),
        harness.Candidate("count_nonzero loop", lambda: peers.count_nonzero_sparsity(model)),
        harness.Candidate("package", lambda: sparsity(model)),
        harness.Candidate("host", lambda: sparsity(small)),
        *limits,
    ]
    timings = harness.interleave(compared, seconds)
    rows = harness.speed_rows(
        timings,
        moved_bytes=elements * BYTES_PER_ELEMENT,
        limits=[candidate.name for candidate in limits],
        hidden=["host"],
    )
    best_peer = harness.mark_best_peer(rows, ORIGINAL)
    targets = TARGETS.get((name, threads), (None, None))
    for row in rows:
        row.update(model=name, threads=threads)
        if row["who"] == ORIGINAL:
            row["target"] = targets[0]
        elif row is best_peer:
            row["target"] = targets[1]
        elif row["who"] == "package":
            row["host_share"] = timings["host"].best_s / timings["package"].best_s
    return rows


def table(
    names: list[str], threads: list[int], seconds: float, zeros: float = 0.0
) -> harness.Table:
    """The table of speeds.

    Without zeros as a default: count_nonzero branches, and is several times slower on a model with
    zeros here and there, which would flatter the package.
    """
    rows = [row for t in threads for name in names for row in measure(name, t, seconds, zeros)]
    notes = [f"values equal to the original's, checked before timing; timed with {zeros:.0%} zeros"]
    return harness.Table("sparsity", harness.SPEED_COLUMNS, rows, notes)


def tables(names: list[str], seconds: float) -> list[harness.Table]:
    """All tables of this path, for the report."""
    return [table(names, [1, 2], seconds)]


def main(arguments: list[str]) -> None:
    """Run from the command line."""
    options = harness.parser(__doc__ or "")
    options.add_argument("--zeros", type=float, default=0.0, help="share of zeros while timing")
    chosen = options.parse_args(arguments)
    if chosen.device == "cuda":
        bench_cuda.run(["sparsity"], chosen)
        return
    about = harness.machine()
    threads = [int(part) for part in harness.names_of(chosen.threads)]
    found = table(harness.names_of(chosen.models), threads, chosen.seconds, chosen.zeros)
    harness.show(about, [found], chosen.json)


if __name__ == "__main__":
    main(sys.argv[1:])
