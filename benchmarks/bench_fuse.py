"""fuse: YOLOv5's formula, torch's own fusion, elementwise operations in place, and the package.

A call fuses all pairs of a model, one after the other, under no_grad and with frozen parameters, as
YOLOv5 does when it loads a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from yolov5_utils.ops.fuse import fuse_conv_and_bn
from yolov5_utils.ops.fuse_model import fuse_model

from . import bench_cuda, checks, harness, models, peers

ORIGINAL = "original (construct, diag, mm)"
FX = "torch fuse_conv_bn_eval"
IN_PLACE = "elementwise in place"
KEPT = "package, all results kept"
WHOLE = "package, fuse_model"
LIMIT = "clone every weight"  # read once and written once


class Pairs:
    """The pairs of a model, and the way back to them after a fusion in place."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval().requires_grad_(False)
        self.modules: list[Any] = [m for m in model.modules() if isinstance(m, models.Conv)]
        self.pairs = [(module.conv, module.bn) for module in self.modules]
        self.start = [conv.weight.detach().clone() for conv, _ in self.pairs]

    def each(self, fuse: Callable[[Any, Any], object]) -> None:
        """Fuse pair after pair, each result dropped before the next."""
        for conv, bn in self.pairs:
            fuse(conv, bn)

    def renew(self) -> None:
        """The model as it was."""
        for module, (conv, bn), weight in zip(self.modules, self.pairs, self.start, strict=True):
            module.conv, module.bn, conv.bias = conv, bn, None
            module.__dict__.pop("forward", None)
            conv.weight.copy_(weight)


def assert_same_bits(pairs: Pairs) -> None:
    """The package gives the original's bits, and got them from C."""
    with checks.ran("fuse", calls=len(pairs.pairs)):
        for conv, bn in pairs.pairs:
            ours, theirs = fuse_conv_and_bn(conv, bn), peers.original_fuse(conv, bn)
            checks.same_bits(ours.state_dict(), theirs.state_dict())


def measure(name: str, threads: int, seconds: float) -> list[dict[str, Any]]:
    """The rows of one model at one thread count."""
    pairs = Pairs(models.build(name))
    torch.set_num_threads(threads)
    assert_same_bits(pairs)
    in_place = {IN_PLACE: lambda: pairs.each(peers.fuse_in_place)}
    in_place[WHOLE] = lambda: fuse_model(pairs.model)
    called: dict[str, Callable[[], object]] = {
        ORIGINAL: lambda: pairs.each(peers.original_fuse),
        FX: lambda: pairs.each(fuse_conv_bn_eval),
        "package": lambda: pairs.each(fuse_conv_and_bn),
        KEPT: lambda: [fuse_conv_and_bn(conv, bn) for conv, bn in pairs.pairs],
        LIMIT: lambda: pairs.each(lambda conv, _: conv.weight.clone()),
    }
    compared = [harness.Candidate(who, call) for who, call in called.items()]
    for who, call in in_place.items():
        compared.append(harness.Candidate(who, call, renew=pairs.renew))
    timings = harness.interleave(compared, seconds)
    pairs.renew()
    return harness.speed_rows(timings, {"model": name, "threads": threads}, [LIMIT])


@torch.no_grad()
def table(names: list[str], threads: list[int], seconds: float) -> harness.Table:
    """The table of speeds."""
    rows = [row for t in threads for name in names for row in measure(name, t, seconds)]
    notes = [
        "all pairs of a model, layer by layer, each result dropped before the next if not said",
        "bits equal to the original's, checked before timing; fuse_model starts from a new model",
        "elementwise in place: no new module, no new weight, other roundings",
    ]
    return harness.Table("fuse_conv_and_bn", harness.SPEED_COLUMNS, rows, notes)


def tables(names: list[str], seconds: float) -> Iterator[harness.Table]:
    """All tables of this path, for the report."""
    yield table(names, [1, 2], seconds)


if __name__ == "__main__":
    harness.run(
        harness.parser(__doc__ or ""),
        lambda chosen: [table(chosen.models, chosen.threads, chosen.seconds)],
        bench_cuda.runner("fuse"),
    )
