"""`selftest`: every hot path in C against plain torch, bit for bit, at the active level.

For users who want to know that their build is right on their machine. It needs no pytest and calls
the extension directly, so no switch can turn the comparison off. Only what C did is compared: what
it leaves to this torch is said, with C's reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from . import _C, _native, reference
from .ops.fuse import convolution_pattern
from .ops.scale_img import resize

_SIZES = range(98)  # below, at and above every vector width and unrolled step of the kernels
_DECAYS = (0.0, 0.0005, 0.5, 0.9999, 1.0)
_SPECIALS = (0.0, -0.0, 1.0, float("inf"), float("-inf"), float("nan"), 1e-40, -1e-45, 65504.0)
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per element


def run() -> int:
    """Print a line per check; 0 if all that C did is equal, 1 otherwise."""
    print(f"yolov5_utils selftest: torch {torch.__version__}, level {_C.info()['level']}")
    start = time.perf_counter()
    failures = left = 0
    for name, check in _CHECKS.items():
        try:
            what = f"ok      {name}: {check()}"
        except _native.Unsupported as why:
            left += 1
            what = f"torch   {name}: left to torch ({why})"
        except Exception as error:  # a check that cannot run has failed, whatever the reason
            failures += 1
            what = f"FAILED  {name}: {error or type(error).__name__}"
        print(what)
    for operation, path in _native.HOT_PATHS.items():
        if not hasattr(_C, path.function):
            print(f"torch   {operation}: not in C in this version")
    seconds = time.perf_counter() - start
    verdict = f"{failures} of {len(_CHECKS)} checks FAILED" if failures else "all equal"
    if left:
        verdict += f", {left} of {len(_CHECKS)} checks left to torch"
    print(f"{verdict}, {seconds:.1f} s")
    return 1 if failures else 0


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


def _compare_ema(average: nn.Module, source: nn.Module, decay: float) -> int:
    """Update copies of `average` both ways: the number of tensors compared, or AssertionError."""
    ours, theirs = deepcopy(average), deepcopy(average)
    _C.ema_update(ours, source, decay)
    reference.ema_update(theirs, source, decay)
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        if not _same_bits(value, expected[name]):
            raise AssertionError(f"{name} ({value.dtype}, {tuple(value.shape)}), decay {decay}")
    return len(expected)


def _ema_sizes(average_dtype: torch.dtype, source_dtype: torch.dtype) -> int:
    generator = torch.Generator().manual_seed(1)
    average = _Bag([_values(size, average_dtype, generator) for size in _SIZES])
    source = _Bag([_values(size, source_dtype, generator) for size in _SIZES])
    return sum(_compare_ema(average, source, decay) for decay in _DECAYS)


def _averaged() -> tuple[torch.dtype, ...]:
    """The dtypes that C averages: torch before 2.1 has roundings of its own for 16 bits."""
    return _FLOATS if _native.TorchFacts().half_scalars_stay_float32 else _FLOATS[:2]


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def _check_ema_dtypes() -> str:
    tensors = sum(_ema_sizes(dtype, dtype) for dtype in _averaged())
    return f"{tensors} tensors of {_names(_averaged())} with 0 to 97 elements"


def _check_ema_mixed() -> str:
    first, *others = _averaged()
    tensors = sum(_ema_sizes(first, dtype) + _ema_sizes(dtype, first) for dtype in others)
    return f"{tensors} tensors, average and model of different dtypes"


def _models() -> Iterator[nn.Module]:
    """Small random models, without a draw from torch's global generator."""
    with torch.random.fork_rng(devices=[]):
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


def _check_ema_models() -> str:
    tensors = 0
    for model in _models():
        average = deepcopy(model)
        for value in average.state_dict().values():
            if value.is_floating_point():
                value.mul_(1.001).add_(0.01)
        tensors += _compare_ema(average, model, 0.997)
    return f"{tensors} tensors of convolution models, tied and channels-last weights among them"


def _compare_sparsity(model: nn.Module) -> int:
    """Count zeros both ways: the number of parameters, or AssertionError."""
    parameters = list(model.parameters())
    counts = _C.count_module_zeros(model)
    zeros_float32 = torch.zeros((), dtype=torch.float32)
    zeros = 0
    for parameter in parameters:
        count = (parameter == 0).sum()
        zeros_float32 += count
        zeros += int(count)
    elements = sum(parameter.numel() for parameter in parameters)
    share = float(zeros_float32 / float(elements))
    expected = (len(parameters), elements, zeros, share, zeros / elements)
    if tuple(counts) != expected:
        raise AssertionError(f"counted {tuple(counts)}, torch {expected}")
    return len(parameters)


def _check_sparsity_dtypes() -> str:
    generator = torch.Generator().manual_seed(2)
    tensors = 0
    for dtype in (*_FLOATS, *_INTEGERS):
        values = [_values(size, dtype, generator) for size in _SIZES]
        tensors += _compare_sparsity(_Bag(values, parameters=True))
    return f"{tensors} parameters of {len(_FLOATS) + len(_INTEGERS)} dtypes with 0 to 97 elements"


def _check_sparsity_models() -> str:
    tensors = sum(_compare_sparsity(model) for model in _models())
    return f"{tensors} parameters of convolution models"


def _compare_prune(weights: Tensor, count: int) -> None:
    """Prune a tensor both ways, or AssertionError: the smallest by magnitude and position."""
    pruned = torch.empty_like(weights)
    _C.prune([weights], [pruned], [count])
    mask = torch.ones_like(weights)
    mask[torch.sort(weights.abs(), stable=True).indices[:count]] = 0
    if not _same_bits(pruned, mask * weights):
        raise AssertionError(f"{weights.numel()} elements of {weights.dtype}, {count} pruned")


def _check_prune() -> str:
    generator = torch.Generator().manual_seed(3)
    sizes = (*range(98), 1023, 1025, 5000, 70_000)
    for dtype in _FLOATS:
        for size in sizes:
            weights = _values(size, dtype, generator).clone()
            for count in {0, round(0.3 * size), size // 2, size}:
                _compare_prune(weights, count)
    return (
        f"{len(sizes) * len(_FLOATS)} layers of {len(_FLOATS)} dtypes with 0 to {sizes[-1]} weights"
    )


def _check_fuse() -> str:
    convolutions, pattern = 0, convolution_pattern()
    refused: dict[torch.dtype, Exception] = {}  # torch before 2.1 has no root of float16
    assert pattern is not None, "nn.Conv2d has members that are not known"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for seed, dtype in enumerate(_FLOATS * 12):
            torch.manual_seed(seed)
            groups = 1 + seed % 2
            inputs, outputs = groups * (1 + seed % 7), groups * (1 + 5 * seed)
            conv = nn.Conv2d(inputs, outputs, 1 + seed % 4, groups=groups, bias=seed % 3 > 0)
            conv.weight.copy_(conv.weight + 0.01 * conv.weight.sign())  # no product vanishes
            bn = nn.BatchNorm2d(outputs)
            bn.weight.uniform_(0.5, 2)
            bn.running_mean.normal_()  # type: ignore[union-attr]
            bn.running_var.uniform_(0.2, 2)  # type: ignore[union-attr]
            conv, bn = conv.to(dtype), bn.to(dtype)
            try:
                ours = _C.fuse([conv], [bn], pattern)
            except _native.Unsupported as why:
                refused[dtype] = why
                continue
            theirs = reference.fuse_conv_and_bn(conv, bn)
            for name in ("weight", "bias"):
                if not _same_bits(getattr(ours[0], name), getattr(theirs, name)):
                    raise AssertionError(f"{name} of {conv}, {dtype}")
            convolutions += 1
    if not convolutions:
        raise next(iter(refused.values()))
    fused = tuple(dtype for dtype in _FLOATS if dtype not in refused)
    what = f"{convolutions} convolutions of {_names(fused)}, grouped ones among them"
    return "; ".join([what, *(f"{_names((d,))} left to torch ({refused[d]})" for d in refused)])


def _check_scale_img() -> str:
    generator = torch.Generator().manual_seed(3)
    images = 0
    for height, width in ((33, 47), (150, 90), (64, 1030), (301, 210)):
        for ratio in (0.5, 0.67, 0.83, 1.3):
            for order in (torch.contiguous_format, torch.channels_last):
                img = torch.randn(2, 3, height, width, generator=generator)
                img = img.contiguous(memory_format=order)
                if not _same_bits(resize(img, ratio), reference.scale_img(img, ratio)):
                    raise AssertionError(f"{height}×{width}, ratio {ratio}, {order}")
                images += 1
    return f"{images} batches, contiguous and channels last, {torch.get_num_threads()} threads"


def _check_time_synchronized() -> str:
    readings = 1000
    for _ in range(readings):
        before = time.time()
        now = _C.time_synchronized()
        if not before <= now <= time.time():
            raise AssertionError(f"read {now} where the clock was at {before}")
    return f"{readings} readings"


_CHECKS: dict[str, Callable[[], Any]] = {
    "ema, dtypes": _check_ema_dtypes,
    "ema, mixed dtypes": _check_ema_mixed,
    "ema, models": _check_ema_models,
    "sparsity, dtypes": _check_sparsity_dtypes,
    "sparsity, models": _check_sparsity_models,
    "fuse": _check_fuse,
    "prune": _check_prune,
    "scale_img": _check_scale_img,
    "time_synchronized": _check_time_synchronized,
}
