"""Each hot path against plain torch on the trained model: the same bits or not, and both times."""

from __future__ import annotations

import contextlib
import io
import platform
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import _C, reference
from ..ops import OPERATIONS
from ..torch_utils import (
    ModelEMA,
    fuse_conv_and_bn,
    prune,
    scale_img,
    sparsity,
    time_synchronized,
)
from .model import Conv
from .score import AUGMENTATIONS

SECONDS_EACH = 1.0  # of timing per hot path, both sides together: the demo's two minutes are short
LEAST_ROUNDS, MOST_ROUNDS = 9, 300
CLOCK_CALLS = 1000  # one call to the clock is far below what a clock can time

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Race(NamedTuple):
    """One hot path: what is called on either side, each time with a new `prepare()`."""

    name: str
    operation: str  # its key in OPERATIONS
    prepare: Callable[[], Any]
    original: Callable[[Any], list[Tensor]]
    ours: Callable[[Any], list[Tensor]]
    calls: int = 1  # calls that one `original` or `ours` makes
    is_clock: bool = False  # the result is the time of day: in order, not equal


class Row(NamedTuple):
    """One line of the table: the fastest call's time in milliseconds on either side."""

    name: str
    original_ms: float
    ours_ms: float
    equal: bool
    is_clock: bool
    way: str

    @property
    def ratio(self) -> float:
        """How many times as long the original takes."""
        return self.original_ms / self.ours_ms


def races(model: nn.Module, average: nn.Module, images: Tensor, amount: float) -> list[Race]:
    """The hot paths, on the trained `model`, the `average` of its weights and float `images`."""
    pairs = [(m.conv, m.bn) for m in average.modules() if isinstance(m, Conv)]
    ratios = [ratio for ratio, _ in AUGMENTATIONS if ratio != 1.0]
    stride = int(model.stride.max())
    pruned = deepcopy(average)
    reference.prune_layers(pruned, amount)

    def fuse_all(fuse: Callable[..., nn.Conv2d]) -> list[Tensor]:
        fused = [fuse(conv, bn) for conv, bn in pairs]
        return [tensor for conv in fused for tensor in (conv.weight, conv.bias)]

    def prune_ours(copy: nn.Module) -> list[Tensor]:
        prune(copy, amount)
        return _state(copy)

    def prune_original(copy: nn.Module) -> list[Tensor]:
        print("Pruning model... ", end="")
        reference.prune_layers(copy, amount)
        print(f" {reference.sparsity(copy):.3g} global sparsity")
        return _state(copy)

    return [
        Race(
            "ModelEMA.update",
            "ema",
            lambda: ModelEMA(average, updates=1000),
            lambda ema: original_update(ema, model),
            lambda ema: our_update(ema, model),
        ),
        Race(
            f"fuse_conv_and_bn ({len(pairs)} layers)",
            "fuse",
            lambda: None,
            lambda _: fuse_all(reference.fuse_conv_and_bn),
            lambda _: fuse_all(fuse_conv_and_bn),
        ),
        Race(
            "sparsity",
            "sparsity",
            lambda: pruned,
            lambda copy: [reference.sparsity(copy)],
            lambda copy: [sparsity(copy)],
        ),
        Race(f"prune ({amount:g})", "prune", lambda: deepcopy(average), prune_original, prune_ours),
        Race(
            f"scale_img ({', '.join(f'{ratio:g}' for ratio in ratios)})",
            "scale_img",
            lambda: images,
            lambda batch: [reference.scale_img(batch, ratio, gs=stride) for ratio in ratios],
            lambda batch: [scale_img(batch, ratio, gs=stride) for ratio in ratios],
        ),
        Race(
            "time_synchronized",
            "time_synchronized",
            lambda: None,
            lambda _: _clock(reference.time_synchronized),
            lambda _: _clock(time_synchronized),
            calls=CLOCK_CALLS,
            is_clock=True,
        ),
    ]


def original_update(ema: ModelEMA, model: nn.Module) -> list[Tensor]:
    """The averaging step as plain torch: two state dicts, then tensor after tensor.

    Not `reference.ema_update`, which also checks everything before its first write: that time is
    not the original's.
    """
    with torch.no_grad():
        ema.updates += 1
        decay = ema.decay(ema.updates)
        new = model.state_dict()
        for key, value in ema.ema.state_dict().items():
            if value.dtype.is_floating_point:
                value *= decay
                value += (1 - decay) * new[key].detach()
    return []


def our_update(ema: ModelEMA, model: nn.Module) -> list[Tensor]:
    """The same step by this package."""
    ema.update(model)
    return []


def _state(module: nn.Module) -> list[Tensor]:
    return list(module.state_dict().values())


def _clock(read: Callable[[], float]) -> list[Tensor]:
    for _ in range(CLOCK_CALLS):
        now = read()
    return [torch.tensor(now, dtype=torch.float64)]


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether dtype, shape and bits are the same: -0.0 is not 0.0, a NaN equals itself."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    integer = _INTEGERS[one.element_size()]
    one, other = (t.detach().contiguous().view(integer) for t in (one, other))
    return bool(torch.equal(one, other))


def run(race: Race, seconds: float) -> Row:
    """Compare the two sides once, then time them in turn; the order changes from round to round.

    The fastest call counts: on busy cores the longer side is interrupted more often, and a median
    would take that for slowness.
    """
    seen = _seen(race.operation)
    spent: tuple[list[float], list[float]] = ([], [])
    sides = (race.original, race.ours)
    with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):  # prune prints what it does
        equal = _agree(race)
        deadline = time.perf_counter() + seconds
        for count in range(MOST_ROUNDS):
            if count >= LEAST_ROUNDS and time.perf_counter() > deadline:
                break
            for side in (0, 1) if count % 2 else (1, 0):
                spent[side].append(_time(sides[side], race.prepare()))
    original, ours = (min(times) * 1e3 / race.calls for times in spent)
    return Row(race.name, original, ours, equal, race.is_clock, _way(race.operation, seen))


def _time(side: Callable[[Any], Any], prepared: Any) -> float:
    start = time.perf_counter()
    side(prepared)
    return time.perf_counter() - start


def _agree(race: Race) -> bool:
    """Whether both sides give, and leave in what they were given, the same bits."""
    results = []
    for side in (race.original, race.ours):
        prepared = race.prepare()
        tensors = side(prepared)
        if isinstance(prepared, ModelEMA):
            tensors = _state(prepared.ema)
        results.append(tensors)
    if race.is_clock:
        return bool(results[0][0] <= results[1][0])
    return len(results[0]) == len(results[1]) > 0 and all(map(same_bits, *results))


Counts = tuple[dict[str, int], dict[str, int]]


def _seen(operation: str) -> Counts:
    """What is counted so far: calls by backend, and by the reason for torch."""
    return OPERATIONS[operation].counted(), dict(OPERATIONS[operation].reasons)


def _way(operation: str, seen: Counts) -> str:
    """Which way the calls since `seen` ran: C, or torch and why."""
    calls, reasons = _seen(operation)
    ways = [way for way in calls if calls[way] > seen[0][way]]
    why = [text for text in reasons if reasons[text] > seen[1].get(text, 0)]
    return " and ".join(ways) + (f" ({'; '.join(why)})" if why else "")


def table(rows: list[Row]) -> str:
    """The rows as aligned text."""
    head = ("hot path", "original ms", "ours ms", "ratio", "equal bits", "way")
    cells = [head] + [
        (
            row.name,
            milliseconds(row.original_ms),
            milliseconds(row.ours_ms),
            f"{row.ratio:.2f}x",
            _verdict(row),
            row.way,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    lines = []
    for line in cells:
        name, *numbers, verdict, way = line
        middle = "  ".join(f"{n:>{w}}" for n, w in zip(numbers, widths[1:4], strict=True))
        lines.append(f"{name:<{widths[0]}}  {middle}  {verdict:<{widths[4]}}  {way}")
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _verdict(row: Row) -> str:
    if row.is_clock:
        return "in order" if row.equal else "NOT IN ORDER"
    return "yes" if row.equal else "NO"


def milliseconds(value: float) -> str:
    """A time with three significant digits, never in powers of ten."""
    digits = 3
    while digits < 7 and value < 10 ** (2 - digits):
        digits += 1
    return f"{value:.{digits}f}"


def machine() -> str:
    """torch, its threads, the instruction level of the C kernels and the CPU, in one line."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux only, where platform knows no name
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    threads = torch.get_num_threads()
    return (
        f"torch {torch.__version__}, {threads} thread{'s' if threads > 1 else ''}, "
        f"instruction level {_C.info()['level']}, {cpu}"
    )
