"""prune: YOLOv5's formula, other ways to find the threshold, and the package, interleaved.

Every call prunes fresh weights: pruning a second time takes a third of the time in torch.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from yolov5_utils.ops.prune import prune_layers

from . import bench_cuda, checks, harness, models, peers

AMOUNT = 0.3
TIES = "torch", "position"  # the first is what a client's prune becomes, with the original's bits
LIMIT = "clone every weight"  # read once and written once
DATA_COLUMNS = (
    *(harness.MODEL, harness.Column("weights", "who"), harness.Column("ties", "ties")),
    *harness.times_of(harness.COLD, harness.HOT),
    harness.Column("of random weights' time, cold", "cold_ratio", "{:.2f}×"),
    harness.Column("hot", "hot_ratio", "{:.2f}×"),
)


class Weights:
    """The convolutions of a model and the weights they start with."""

    def __init__(self, model: nn.Module) -> None:
        modules = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        self.weights = [module.weight for module in modules]
        self.start = [weight.detach().clone() for weight in self.weights]

    def renew(self, make: Callable[[Tensor], Tensor] = Tensor.clone) -> None:
        """Give every convolution new memory with `make` of its first weights."""
        for weight, start in zip(self.weights, self.start, strict=True):
            weight.data = make(start)

    def bits(self) -> list[Tensor]:
        """The weights as integers."""
        return [weight.detach().clone().view(torch.int32) for weight in self.weights]


def assert_same_bits(model: nn.Module, weights: Weights) -> None:
    """The package leaves the original's bits, and got them from C.

    With ties="position" the choice among equals is another, so the magnitudes are compared.
    """
    weights.renew()
    peers.original_prune(model, AMOUNT)
    expected = weights.bits()
    for ties in TIES:
        weights.renew()
        with checks.ran("prune"):
            prune_layers(model, AMOUNT, ties=ties)
        for pair in zip(weights.bits(), expected, strict=True):
            if ties == "torch":
                assert torch.equal(*pair)
            else:
                magnitudes = [bits.view(torch.float32).abs().view(-1) for bits in pair]
                assert torch.equal(*(values.sort().values for values in magnitudes))


def measure(name: str, threads: int, seconds: float, half_once: bool) -> list[dict[str, Any]]:
    """The rows of one model at one thread count."""
    model = models.build(name, half_once=half_once)
    weights = Weights(model)
    torch.set_num_threads(threads)
    assert_same_bits(model, weights)
    called: dict[str, Callable[[], object]] = {
        "original (l1_unstructured, remove)": lambda: peers.original_prune(model, AMOUNT),
        "np.partition + mask": lambda: peers.partition_prune(model, AMOUNT),
        harness.PACKAGE: lambda: prune_layers(model, AMOUNT, ties=TIES[0]),
        f"package, ties={TIES[1]}": lambda: prune_layers(model, AMOUNT, ties=TIES[1]),
        LIMIT: weights.renew,
    }
    compared = [harness.Candidate(who, call, renew=weights.renew) for who, call in called.items()]
    case = {"model": f"{name}, once float16" if half_once else name, "threads": threads}
    return harness.speed_rows(harness.interleave(compared, seconds), case, [LIMIT])


def table(names: list[str], threads: list[int], seconds: float) -> harness.Table:
    """The table of speeds: random weights, and for the first model also released checkpoints'."""
    rows = [row for t in threads for name in names for row in measure(name, t, seconds, False)]
    rows += measure(names[0], threads[0], seconds, True)
    notes = [
        f"{AMOUNT:.0%} of every layer, fresh weights for every call, without the sparsity printed",
        f"package: ties={TIES[0]}, bits equal to the original's, checked before timing; "
        f"ties={TIES[1]}: equal magnitudes",
    ]
    return harness.Table("prune", harness.SPEED_COLUMNS, rows, notes)


def organ_pipe(weights: Tensor) -> Tensor:
    """Rising to the middle, falling behind it."""
    rising = weights.abs().view(-1).sort().values
    return torch.cat([rising[::2], rising[1::2].flip(0)]).view(weights.shape)


# What selection algorithms are slow on.
KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "random": Tensor.clone,
    "once float16": lambda w: w.half().float(),
    "sorted": lambda w: w.view(-1).sort().values.view(w.shape),
    "reversed": lambda w: w.abs().view(-1).sort(descending=True).values.view(w.shape),
    "organ pipe": organ_pipe,
    "two values": lambda w: (w > 0).float() + 1,
    "all equal": torch.ones_like,
}


def measure_data(name: str, seconds: float) -> list[dict[str, Any]]:
    """The package on weights of every kind, in both modes, with 1 thread."""
    model = models.build(name)
    weights = Weights(model)
    torch.set_num_threads(1)
    made = {kind: [make(start) for start in weights.start] for kind, make in KINDS.items()}

    def renew(kind: str) -> None:
        for weight, start in zip(weights.weights, made[kind], strict=True):
            weight.data = start.clone()

    cases = {f"{kind}, {ties}": (kind, ties) for ties in TIES for kind in KINDS}
    compared = [
        harness.Candidate(
            case,
            lambda ties=ties: prune_layers(model, AMOUNT, ties=ties),
            renew=lambda kind=kind: renew(kind),
        )
        for case, (kind, ties) in cases.items()
    ]
    timings = harness.interleave(compared, seconds)
    rows = []
    for case, both in timings.items():
        kind, ties = cases[case]
        random = timings[f"random, {ties}"]
        row: dict[str, Any] = {"model": name, "who": kind, "ties": ties}
        for state, timing in both._asdict().items():
            row.update(harness.times(state, timing))
            if both is not random:
                row.update(harness.faster_by(state, getattr(random, state), timing))
        rows.append(row)
    return rows


def data_table(names: list[str], seconds: float) -> harness.Table:
    """The table of data that slows selection down."""
    rows = [row for name in names for row in measure_data(name, seconds)]
    return harness.Table("prune: weights of every kind, 1 thread", DATA_COLUMNS, rows, [])


def tables(names: list[str], seconds: float) -> Iterator[harness.Table]:
    """All tables of this path, for the report."""
    yield table(names, [1, 2], seconds)
    yield data_table(names[-1:], seconds)


def chosen_tables(chosen: Namespace) -> list[harness.Table]:
    """What the command line asks for."""
    if chosen.data:
        return [data_table(chosen.models, chosen.seconds)]
    return [table(chosen.models, chosen.threads, chosen.seconds)]


if __name__ == "__main__":
    options = harness.parser(__doc__ or "")
    options.add_argument("--data", action="store_true", help="only: weights of every kind")
    harness.run(options, chosen_tables, bench_cuda.runner("prune"))
