"""sparsity: YOLOv5's formula, a count_nonzero loop and the package, interleaved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from yolov5_utils.torch_utils import sparsity

from . import bench_cuda, checks, harness, models, peers

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
    checks.same_bits({"share": found}, {"share": expected})


def measure(name: str, threads: int, seconds: float, zeros: float) -> list[dict[str, Any]]:
    """The rows of one model at one thread count."""
    model = with_zeros(name, zeros)
    torch.set_num_threads(threads)
    assert_same_value(with_zeros(name, CHECKED_ZEROS))
    assert_same_value(model)
    limits = harness.read_bandwidth(models.count(model).parameters)
    compared = [
        harness.Candidate("original (==, sum)", lambda: peers.original_sparsity(model)),
        harness.Candidate("count_nonzero loop", lambda: peers.count_nonzero_sparsity(model)),
        harness.Candidate(harness.PACKAGE, lambda: sparsity(model)),
        *limits,
    ]
    timings = harness.interleave(compared, seconds)
    case = {"model": name, "threads": threads}
    return harness.speed_rows(timings, case, [candidate.name for candidate in limits])


def table(
    names: list[str], threads: list[int], seconds: float, zeros: float = 0.0
) -> harness.Table:
    """The table of speeds.

    Without zeros as a default: count_nonzero branches, and is several times slower on a model with
    zeros here and there, which would flatter the package.
    """
    rows = [row for t in threads for name in names for row in measure(name, t, seconds, zeros)]
    notes = [f"bits equal to the original's, checked before timing; timed with {zeros:.0%} zeros"]
    return harness.Table("sparsity", harness.SPEED_COLUMNS, rows, notes)


def tables(names: list[str], seconds: float) -> Iterator[harness.Table]:
    """All tables of this path, for the report."""
    yield table(names, [1, 2], seconds)


if __name__ == "__main__":
    options = harness.parser(__doc__ or "")
    options.add_argument("--zeros", type=float, default=0.0, help="share of zeros while timing")
    harness.run(
        options,
        lambda chosen: [table(chosen.models, chosen.threads, chosen.seconds, chosen.zeros)],
        bench_cuda.runner("sparsity"),
    )
