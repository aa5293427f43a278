"""`selftest`: every hot path as users call it against plain torch, bit for bit.

For users who want to know that their build is right on their machine. It needs no pytest, and calls
the public functions. Only what C did, at the active level, is compared: what was left to torch is
said, with the reason, and so is what the original's operations cannot do on this torch.
"""

from __future__ import annotations

import contextlib
import io
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from . import _C, reference, torch_utils
from .ops import OPERATIONS

_SIZES = range(98)  # below, at and above every vector width and unrolled step of the kernels
_DECAYS = (0.0, 0.0005, 0.5, 0.9999, 1.0)
_SPECIALS = (0.0, -0.0, 1.0, float("inf"), float("-inf"), float("nan"), 1e-40, -1e-45, 65504.0)
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per element
_ALARMS = 20  # per function


class _Comparison:
    """One check: calls of a hot path, each beside the original's operations."""

    def __init__(self, operation: str) -> None:
        self._path = OPERATIONS[operation]
        self._operation = operation
        self.equal = 0
        self.left: Counter[str] = Counter()  # calls by why torch was taken
        self.impossible: Counter[str] = Counter()  # calls by what the original raises

    def add(self, what: str, ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
        """Compare the results, tensors and numbers by name: AssertionError where one differs."""
        try:
            expected = theirs()
        except Exception as error:  # whatever it is, there is nothing to compare with
            self.impossible[_one_line(error)] += 1
            return
        before = Counter(self._path.reasons)
        found = ours()
        reasons = Counter(self._path.reasons) - before
        if reasons:
            self.left += reasons
            return
        for name, value in expected.items():
            same = _same_bits if isinstance(value, Tensor) else lambda a, b: a == b
            if not same(found[name], value):
                raise AssertionError(f"{what}: {name} differs from the original's")
        self.equal += 1

    def __str__(self) -> str:
        notes = [f"{count} left to torch ({why})" for why, count in self.left.items()]
        notes += [
            f"{count} that the original cannot do either ({why})"
            for why, count in self.impossible.items()
        ]
        return "; ".join([f"{self.equal} calls equal"] * bool(self.equal) + notes)


def run() -> int:
    """Print a line per check; 0 if all that C did is equal, 1 otherwise."""
    print(f"yolov5_utils selftest: torch {torch.__version__}, level {_C.info()['level']}")
    start = time.perf_counter()
    failures = left = 0
    for name, check in _CHECKS.items():
        try:
            with torch.random.fork_rng(devices=[]):
                done = check()
            compared = not isinstance(done, _Comparison) or done.equal > 0
            left += not compared
            what = f"{'ok     ' if compared else 'torch  '} {name}: {done}"
        except Exception as error:  # a check that cannot run has failed, whatever the reason
            failures += 1
            what = f"FAILED  {name}: {_one_line(error)}"
        print(what)
    seconds = time.perf_counter() - start
    verdict = f"{failures} of {len(_CHECKS)} checks FAILED" if failures else "all equal"
    if left:
        verdict += f", {left} of {len(_CHECKS)} checks left to torch"
    print(f"{verdict}, {seconds:.1f} s")
    return 1 if failures else 0


def _one_line(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"


class _Bag(nn.Module):
    """A module that holds tensors, as buffers (all dtypes) or parameters, and computes nothing."""

    def __init__(self, tensors: list[Tensor], parameters: bool = False) -> None:
        super().__init__()
        for number, tensor in enumerate(tensors):
            if parameters:
                parameter = nn.Parameter(tensor, requires_grad=False)
                self.register_parameter(f"tensor{number}", parameter)
            else:
                self.register_buffer(f"tensor{number}", tensor)


def _values(size: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Random numbers of many magnitudes with zeros and special values, in an unaligned place."""
    exponents = torch.randint(-12, 5, (size + 1,), generator=generator)
    values = torch.randn(size + 1, generator=generator) * 10.0**exponents
    marks = torch.randint(0, 3 * len(_SPECIALS), (size + 1,), generator=generator)
    for mark, special in enumerate(_SPECIALS):
        values[marks == mark] = special
    if not dtype.is_floating_point:
        values = values.nan_to_num(0, 0, 0).clamp(0, 100)
    return values.to(dtype)[1:]


def _same_bits(ours: Tensor, theirs: Tensor) -> bool:
    """Equal dtype, shape and bits; one NaN is as good as another."""
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return False
    integers = _BITS[ours.element_size()]
    equal = ours.contiguous().view(integers) == theirs.contiguous().view(integers)
    return bool((equal | (ours.isnan() & theirs.isnan())).all())


def _averaged(average: nn.Module, source: nn.Module, decay: float) -> dict[str, Any]:
    """The state after one ModelEMA.update with this decay, and the number of updates."""
    moving = torch_utils.ModelEMA(average)
    moving.decay = lambda updates: decay
    moving.update(source)
    return {**moving.ema.state_dict(), "updates": moving.updates}


def _averaged_by_torch(average: nn.Module, source: nn.Module, decay: float) -> dict[str, Any]:
    copy = deepcopy(average)
    reference.ema_update(copy, source, decay)
    return {**copy.state_dict(), "updates": 1}


def _compare_ema(to: _Comparison, average: nn.Module, source: nn.Module, decays: Any) -> None:
    for decay in decays:
        to.add(
            f"decay {decay}",
            partial(_averaged, average, source, decay),
            partial(_averaged_by_torch, average, source, decay),
        )


def _compare_dtypes(to: _Comparison, average: torch.dtype, source: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = (
        _Bag([_values(size, dtype, generator) for size in _SIZES]) for dtype in (average, source)
    )
    _compare_ema(to, first, second, _DECAYS)


def _check_ema_dtypes() -> _Comparison:
    to = _Comparison("ema")
    for dtype in _FLOATS:
        _compare_dtypes(to, dtype, dtype)
    return to


def _check_ema_mixed() -> _Comparison:
    to = _Comparison("ema")
    first, *others = _FLOATS
    for dtype in others:
        _compare_dtypes(to, first, dtype)
        _compare_dtypes(to, dtype, first)
    return to


def _models() -> Iterator[nn.Module]:
    """Small random models."""
    for seed in range(8):
        torch.manual_seed(seed)
        channels = 3 + 5 * seed
        first = nn.Conv2d(3, channels, 3, bias=bool(seed % 2))
        model = nn.Sequential(
            first,
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, 7, 1).to(memory_format=torch.channels_last),
            nn.ConvTranspose2d(7, channels, 2),
            first if seed % 3 == 0 else nn.Identity(),  # tied: averaged twice, counted once
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter[torch.rand_like(parameter) < 0.2] = 0.0
        yield model


def _check_ema_models() -> _Comparison:
    to = _Comparison("ema")
    for model in _models():
        average = deepcopy(model)
        for value in average.state_dict().values():
            if value.is_floating_point():
                value.mul_(1.001).add_(0.01)
        _compare_ema(to, average, model, [0.997])
    return to


def _compare_sparsity(to: _Comparison, what: str, model: nn.Module) -> None:
    to.add(
        what,
        lambda: {"share": torch_utils.sparsity(model)},
        lambda: {"share": reference.sparsity(model)},
    )


def _check_sparsity_dtypes() -> _Comparison:
    to = _Comparison("sparsity")
    generator = torch.Generator().manual_seed(2)
    for dtype in (*_FLOATS, *_INTEGERS):
        values = [_values(size, dtype, generator) for size in _SIZES]
        _compare_sparsity(to, str(dtype), _Bag(values, parameters=True))
    return to


def _check_sparsity_models() -> _Comparison:
    to = _Comparison("sparsity")
    for model in _models():
        _compare_sparsity(to, str(model[0]), model)  # type: ignore[index]
    return to


def _pruned(model: nn.Module, amount: float, ties: str) -> dict[str, Any]:
    copy = deepcopy(model)
    with contextlib.redirect_stdout(io.StringIO()):
        torch_utils.prune(copy, amount, ties=ties)
    return copy.state_dict()


def _pruned_by_torch(model: nn.Module, amount: float, ties: str) -> dict[str, Any]:
    """By torch's pruning, or without its choice among equals: the first of them."""
    copy = deepcopy(model)
    if ties == "torch":
        reference.prune_layers(copy, amount)
        return copy.state_dict()
    for weights in copy.state_dict().values():
        mask = torch.ones_like(weights)
        order = torch.sort(weights.abs().flatten(), stable=True).indices
        mask.view(-1)[order[: round(amount * weights.numel())]] = 0
        weights *= mask
    return copy.state_dict()


def _check_prune() -> _Comparison:
    to = _Comparison("prune")
    generator = torch.Generator().manual_seed(3)
    for dtype in _FLOATS:
        layers = []
        for size in (*_SIZES, 1023, 1025, 5000, 70_000):
            layer = nn.Conv2d(1, 1, 1, bias=False)
            weights = _values(size, dtype, generator).clone().view(-1, 1, 1, 1)
            layer.weight = nn.Parameter(weights, requires_grad=False)
            layers.append(layer)
        model = nn.Sequential(*layers)
        for amount in (0.0, 0.3, 0.5, 1.0):
            for ties in ("position", "torch"):
                to.add(
                    f"{dtype}, {amount} of the weights, ties {ties}",
                    partial(_pruned, model, amount, ties),
                    partial(_pruned_by_torch, model, amount, ties),
                )
    return to


def _layers(seed: int, dtype: torch.dtype) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution and its batch norm that want no gradient."""
    torch.manual_seed(seed)
    groups = 1 + seed % 2
    inputs, outputs = groups * (1 + seed % 7), groups * (1 + 5 * seed)
    conv = nn.Conv2d(inputs, outputs, 1 + seed % 4, groups=groups, bias=seed % 3 > 0)
    bn = nn.BatchNorm2d(outputs)
    with torch.no_grad():
        conv.weight.copy_(conv.weight + 0.01 * conv.weight.sign())  # no product vanishes
        bn.weight.uniform_(0.5, 2)
        bn.running_mean.normal_()  # type: ignore[union-attr]
        bn.running_var.uniform_(0.2, 2)  # type: ignore[union-attr]
    return conv.to(dtype).requires_grad_(False), bn.to(dtype).requires_grad_(False)


def _fused(function: Callable[..., nn.Conv2d], *layers: nn.Module) -> dict[str, Any]:
    return function(*layers).state_dict()


def _check_fuse() -> _Comparison:
    to = _Comparison("fuse")
    for seed, dtype in enumerate(_FLOATS * 12):
        conv, bn = _layers(seed, dtype)
        to.add(
            f"{conv}, {dtype}",
            partial(_fused, torch_utils.fuse_conv_and_bn, conv, bn),
            partial(_fused, reference.fuse_conv_and_bn, conv, bn),
        )
    return to


def _image(function: Callable[..., Tensor], *args: Any) -> dict[str, Any]:
    """The result and where its elements lie; the stride of a single one is nobody's business."""
    image = function(*args)
    strides = [stride for size, stride in zip(image.shape, image.stride(), strict=True) if size > 1]
    return {"image": image, "strides": strides}


def _check_scale_img() -> _Comparison:
    to = _Comparison("scale_img")
    generator = torch.Generator().manual_seed(3)
    for batch, channels in ((2, 3), (1, 1), (1, 8), (2, 17), (0, 3)):
        for height, width in ((33, 47), (150, 90), (64, 310)):
            for ratio in (0.5, 0.67, 0.83, 1.3):
                for order in (torch.contiguous_format, torch.channels_last):
                    img = torch.randn(batch, channels, height, width, generator=generator)
                    call = (img.contiguous(memory_format=order), ratio, ratio == 0.67)
                    to.add(
                        f"{tuple(img.shape)}, {order}, ratio {ratio}",
                        partial(_image, torch_utils.scale_img, *call),
                        partial(_image, reference.scale_img, *call),
                    )
    return to


def _check_time_synchronized() -> str:
    readings = 1000
    for _ in range(readings):
        before = time.time()
        now = torch_utils.time_synchronized()
        if not before <= now <= time.time():
            raise AssertionError(f"read {now} where the clock was at {before}")
    return f"{readings} readings"


class _Alarm(Exception):
    """What the signal handler of the check raises."""


def _check_signals() -> str:
    """What a signal handler raises arrives, whatever function was running."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        return "not tried: no alarm in this thread or on this system"
    conv, bn = _layers(12, torch.float32)
    moving, image = torch_utils.ModelEMA(conv), torch.ones(1, 3, 64, 64)
    functions: dict[str, Callable[[], Any]] = {
        "ema": lambda: moving.update(conv),
        "fuse": lambda: torch_utils.fuse_conv_and_bn(conv, bn),
        "sparsity": lambda: torch_utils.sparsity(conv),
        "scale_img": lambda: torch_utils.scale_img(image, 0.83),
        "time_synchronized": torch_utils.time_synchronized,
    }
    draw = random.Random(16)
    for name, function in functions.items():
        function()  # what is found out at the first call is no part of this
        for _ in range(_ALARMS):
            _wait_for_alarm(name, function, draw.uniform(1e-4, 2e-3))
    return f"{_ALARMS} alarms in each of {len(functions)} functions arrived"


def _wait_for_alarm(name: str, function: Callable[[], Any], seconds: float) -> None:
    rang = False

    def ring(*_: Any) -> None:
        nonlocal rang
        rang = True
        raise _Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while not rang:
            function()
    except _Alarm:
        return
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    raise AssertionError(f"{name}: the exception of a signal handler was lost")


_CHECKS: dict[str, Callable[[], _Comparison | str]] = {
    "ema, dtypes": _check_ema_dtypes,
    "ema, mixed dtypes": _check_ema_mixed,
    "ema, models": _check_ema_models,
    "sparsity, dtypes": _check_sparsity_dtypes,
    "sparsity, models": _check_sparsity_models,
    "fuse": _check_fuse,
    "prune": _check_prune,
    "scale_img": _check_scale_img,
    "time_synchronized": _check_time_synchronized,
    "signals": _check_signals,
}
