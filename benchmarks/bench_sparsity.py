"""sparsity: YOLOv5's formula, a count_nonzero loop and the package, interleaved."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from yolov5_utils.torch_utils import sparsity

from . import bench_cuda, checks, harness, models, peers

BYTES_PER_ELEMENT = 4  # every parameter read once
ORIGINAL = "original (==, sum)"
# Package faster than these: by model and torch threads.
TARGETS = {
    ("n", 1): {ORIGINAL: "≥ 18×", harness.BEST_PEER: "≥ 6×"},
    ("x", 1): {ORIGINAL: "≥ 10.5×", harness.BEST_PEER: "≥ 2.5×"},
}
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
    with checks.ran("sparsity"):
        found = sparsity(model)
    expected = peers.original_sparsity(model)
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
        harness.Candidate(harness.PACKAGE, lambda: sparsity(model)),
        harness.Candidate(harness.HOST, lambda: sparsity(small)),
        *limits,
    ]
    timings = harness.interleave(compared, seconds)
    return harness.speed_rows(
        timings,
        {"model": name, "threads": threads},
        moved_bytes=elements * BYTES_PER_ELEMENT,
        limits=[candidate.name for candidate in limits],
        original=ORIGINAL,
        targets=TARGETS.get((name, threads)),
    )


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


if __name__ == "__main__":
    options = harness.parser(__doc__ or "")
    options.add_argument("--zeros", type=float, default=0.0, help="share of zeros while timing")
    harness.run(
        options,
        lambda chosen: [table(chosen.models, chosen.threads, chosen.seconds, chosen.zeros)],
        bench_cuda.runner("sparsity"),
    )
