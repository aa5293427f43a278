"""Each hot path against YOLOv5's own lines on the trained model: the same bits or not, both times.

The benchmarks' harness times the two sides, the package's bits.py compares what they give.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import harness, peers, plots, summary
from benchmarks.models import Conv
from yolov5_utils import bits, torch_utils
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.ops.prune import prune_layers

from .score import AUGMENTATIONS

SECONDS_EACH = 1.0  # of timing per hot path, both sides together: the demo's two minutes are short
CLOCK_CALLS = 1000  # one call to the clock is far below what a clock can time
COLUMNS = (
    harness.Column("hot path", "path"),
    harness.Column("of", "case"),
    harness.Column("original µs", "original_us", "{:,.2f}"),
    harness.Column("ours µs", "ours_us", "{:,.2f}"),
    harness.Column("ratio", "ratio", "{:.2f}x"),
    harness.Column("equal bits", "equal"),
    harness.Column("backend", "backend"),
)


class Race(NamedTuple):
    """One hot path: `call(original)` is timed against `call(ours)`."""

    path: str
    case: str
    operation: str  # its key among OPERATIONS
    call: Callable[[Any], Any]  # gives what `_tensors` takes
    original: Any
    ours: Any
    renew: Callable[[], object] | None = None  # untimed, before every call
    calls: int = 1  # to the hot path, in one `call`


def races(model: nn.Module, average: nn.Module, images: Tensor, amount: float) -> list[Race]:
    """The hot paths, on the trained `model`, the `average` of its weights and float `images`."""
    pairs = [(m.conv, m.bn) for m in average.modules() if isinstance(m, Conv)]
    ratios = [ratio for ratio, _ in AUGMENTATIONS if ratio != 1.0]
    stride, start = int(model.stride.max()), deepcopy(average.state_dict())
    theirs, mine, pruned = (deepcopy(average) for _ in range(3))
    peers.original_prune(pruned, amount)

    def update(ema: Any) -> nn.Module:
        ema.update(model)
        return ema.ema

    def prune(side: tuple[Callable[..., None], nn.Module]) -> nn.Module:
        function, copy = side
        function(copy, amount)
        return copy

    def read(clock: Callable[[], float]) -> float:
        for _ in range(CLOCK_CALLS):
            now = clock()
        return now

    made = [
        Race(
            *("ModelEMA.update", f"{len(start)} entries", "ema", update),
            *(peers.OriginalEMA(average), torch_utils.ModelEMA(average, peers.DECAY)),
        ),
        Race(
            *("fuse_conv_and_bn", f"{len(pairs)} layers", "fuse"),
            lambda fuse: [fuse(*pair) for pair in pairs],
            *(peers.original_fuse, torch_utils.fuse_conv_and_bn),
        ),
        Race(
            *("sparsity", f"{amount:g} pruned", "sparsity", lambda share: share(pruned)),
            *(peers.original_sparsity, torch_utils.sparsity),
        ),
        Race(
            *("prune", f"{amount:g} pruned", "prune", prune),
            *((peers.original_prune, theirs), (prune_layers, mine)),
            lambda: [copy.load_state_dict(start) for copy in (theirs, mine)],
        ),
        Race(
            *("scale_img", f"r {' and '.join(f'{ratio:g}' for ratio in ratios)}", "scale_img"),
            lambda scale: [scale(images, ratio, gs=stride) for ratio in ratios],
            *(peers.original_scale_img, torch_utils.scale_img),
        ),
        Race(
            *("time_synchronized", "one call", "time_synchronized", read),
            *(peers.original_time_synchronized, torch_utils.time_synchronized),
            calls=CLOCK_CALLS,
        ),
    ]
    for name, record in OPERATIONS.items():
        if name not in {race.operation for race in made}:  # a newer one: its usual call
            given = record.usual()
            sides = (record.reference, deepcopy(given)), (record.call, given)
            usual = (record.public_names[0], "usual call", name)
            made.append(Race(*usual, lambda side: side[0](*side[1]), *sides))
    return made


def run(race: Race, seconds: float) -> dict[str, Any]:
    """The row of one race: compared once, then timed in turn, of which the fastest call counts."""
    before = _counted(race.operation)
    with torch.no_grad():
        differs = _difference(race)
        sides = {"original": race.original, "ours": race.ours}
        timings = harness.interleave(
            [
                harness.Candidate(name, partial(race.call, side), renew=race.renew)
                for name, side in sides.items()
            ],
            seconds,
        )
    original, ours = (timings[name].hot.best_s * 1e6 / race.calls for name in sides)
    return {
        "path": race.path,
        "case": race.case,
        "original_us": original,
        "ours_us": ours,
        "ratio": original / ours,
        "equal": "NO" if differs else "in order" if race.calls > 1 else "yes",
        "difference": differs,
        "backend": _backend(before, _counted(race.operation)),
    }


def _difference(race: Race) -> str:
    """What differs between the results of the two sides, or nothing."""
    if race.renew is not None:
        race.renew()
    theirs, ours = race.call(race.original), race.call(race.ours)
    if race.calls > 1:  # of the clock
        return "" if theirs <= ours else f"the clock went from {theirs} back to {ours}"
    expected, found = _tensors(theirs), _tensors(ours)
    if expected.keys() != found.keys():
        return "another number of tensors"
    different = [name for name in expected if not bits.same(found[name], expected[name])]
    of_all = f"{len(different)} of {len(expected)} tensors"
    return f"other bits in {of_all}, the first is {different[0]}" if different else ""


def _tensors(result: Any) -> dict[str, Tensor]:
    """The tensors of a tensor, a number, a module or a list of these, by name."""
    if isinstance(result, nn.Module):
        return dict(result.state_dict())
    if isinstance(result, (Tensor, int, float)):
        return {"result": torch.as_tensor(result)}
    named = ((n, name, t) for n, part in enumerate(result) for name, t in _tensors(part).items())
    return {f"{number}.{name}": tensor for number, name, tensor in named}


def _counted(operation: str) -> tuple[dict[str, int], dict[str, int]]:
    """This process's calls of a hot path so far by backend, and why torch ran some."""
    return OPERATIONS[operation].counted(), dict(OPERATIONS[operation].reasons)


def _backend(*counts: tuple[dict[str, int], dict[str, int]]) -> str:
    """What ran the calls between two counts: C, or torch and why."""
    ran, why = (
        [name for name in after if after[name] > before.get(name, 0)]
        for before, after in zip(*counts, strict=True)
    )
    return " and ".join(ran) + (f" ({'; '.join(why)})" if why else "")


def picture(rows: list[dict[str, Any]], machine: str, path: Path) -> None:
    """Save the ratios as bars."""
    lines = [
        summary.Line(row["path"], row["case"], row["ratio"], None, "", None, {}) for row in rows
    ]
    plots.speed_bars(lines, machine, "Times as fast as plain torch").savefig(path)
