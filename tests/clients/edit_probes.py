"""Small calls of a client's hot functions, and all that can be seen of each as text.

What docs/exactness.md says of calls that raise is not looked at: which tensors they had written.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy
import torch
from torch import nn

Probe = Callable[[ModuleType], Any]
PROBES: dict[str, list[Probe]] = {}


class Hang(BaseException):
    """A call that takes too long; no client catches it."""


def probe(name: str) -> Callable[[Probe], Probe]:
    """Make a function one of the probes of this hot function."""

    def added(function: Probe) -> Probe:
        PROBES.setdefault(name, []).append(function)
        return function

    return added


def small_model() -> nn.Module:
    """Another one with each call; seed() begins anew."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Conv2d(4, 6, 1), nn.Linear(5, 3).double()),
    )
    with torch.no_grad():
        model[0].weight[1] = 0
        model[1].running_mean.uniform_()
        model[1].num_batches_tracked.random_(9)
    return model


@probe("ModelEMA.update")
def updates(module: ModuleType) -> Any:
    average = module.ModelEMA(small_model(), 0.75, 3, 2)
    later = small_model()
    returned = average.update(later), average.update(model=small_model())
    return returned, vars(average), later


@probe("ModelEMA.update")
def updates_of_wrapped(module: ModuleType) -> Any:
    average = module.ModelEMA(small_model())
    return average.update(nn.DataParallel(small_model())), vars(average)


@probe("ModelEMA.update")
def updates_of_nothing(module: ModuleType) -> Any:
    return module.ModelEMA(small_model()).update(None)


@probe("ModelEMA.update")
def updates_of_half(module: ModuleType) -> Any:
    average = module.ModelEMA(small_model().half(), decay=0.5)
    with torch.no_grad():
        return average.update(small_model()), vars(average)


@probe("sparsity")
def shares(module: ModuleType) -> Any:
    return module.sparsity(small_model()), module.sparsity(model=small_model()[0])


@probe("sparsity")
def share_of_nothing(module: ModuleType) -> Any:
    return module.sparsity(nn.Sequential())


@probe("sparsity")
def share_of_no_model(module: ModuleType) -> Any:
    return module.sparsity(5)


@probe("prune")
def pruned(module: ModuleType) -> Any:
    first, second = small_model(), small_model()
    return module.prune(first), module.prune(second, amount=0.6), first, second


@probe("prune")
def pruned_by_number(module: ModuleType) -> Any:
    model = small_model()
    return module.prune(model, 3), model


@probe("prune")
def pruned_too_much(module: ModuleType) -> Any:
    return module.prune(small_model(), 2.5)


@probe("fuse_conv_and_bn")
def fused(module: ModuleType) -> Any:
    model = small_model()
    with torch.no_grad():
        return module.fuse_conv_and_bn(model[0], model[1]), model


@probe("fuse_conv_and_bn")
def fused_with_more(module: ModuleType) -> Any:
    conv = nn.Conv2d(4, 4, (3, 1), 2, 1, groups=2, dilation=2)
    bn = nn.BatchNorm2d(4, eps=0.01)
    with torch.no_grad():
        bn.running_var.uniform_(0.5, 2)
        bn.weight.uniform_(-1, 1)
        return module.fuse_conv_and_bn(conv=conv, bn=bn), conv


@probe("fuse_conv_and_bn")
def fused_with_gradients(module: ModuleType) -> Any:
    model = small_model()
    return module.fuse_conv_and_bn(model[0], model[1])


@probe("fuse_conv_and_bn")
def fused_of_other_sizes(module: ModuleType) -> Any:
    with torch.no_grad():
        return module.fuse_conv_and_bn(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(4))


@probe("scale_img")
def scaled(module: ModuleType) -> Any:
    image = torch.rand(1, 3, 24, 40)
    known = {"ratio": 0.67, "same_shape": False, "gs": 16}
    results = [
        module.scale_img(image, 0.83),
        module.scale_img(image, 0.5, True),
        module.scale_img(image, **known),
        module.scale_img(image, 1.3, gs=8),
    ]
    return results, module.scale_img(image) is image, image


@probe("scale_img")
def scaled_doubles(module: ModuleType) -> Any:
    image = torch.rand(2, 1, 12, 20, dtype=torch.float64, requires_grad=True)
    return module.scale_img(image, 0.5)


@probe("scale_img")
def scaled_integers(module: ModuleType) -> Any:
    return module.scale_img(torch.ones(1, 3, 8, 8, dtype=torch.int64), 0.5)


@probe("scale_img")
def scaled_too_few(module: ModuleType) -> Any:
    return module.scale_img(torch.rand(3, 8, 8), 0.5)


@probe("time_sync")
def time_now(module: ModuleType) -> Any:
    return type(module.time_sync())


@probe("time_synchronized")
def time_then(module: ModuleType) -> Any:
    return type(module.time_synchronized())


def observed(probe: Probe, module: ModuleType) -> dict[str, Any]:
    """All that can be seen of one call."""
    seed()
    said: list[str] = []
    seen: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as stdout, log_of(said):
        try:
            seen["result"] = described(probe(module))
        except Hang:
            raise
        except RecursionError as error:  # how deep it got depends on who called
            seen["raised"] = type(error).__name__
        except BaseException as error:
            seen["raised"] = [type(error).__name__, without_places(str(error))]
    if seen.get("raised") != "RecursionError":
        seen["stdout"] = stdout.getvalue()
        seen["log"] = [line for line in said if "yolov5_utils" not in line]
    seen["random"] = [random.random(), numpy.random.rand(), hashed(torch.get_rng_state())]
    seen["torch"] = [torch.is_grad_enabled(), str(torch.get_default_dtype())]
    return seen


def seed() -> None:
    random.seed(5)
    numpy.random.seed(5)
    torch.default_generator.manual_seed(5)  # torch.manual_seed asks for devices


@contextlib.contextmanager
def log_of(said: list[str]) -> Iterator[None]:
    """Take down what every logger says, instead of showing it."""
    handle = logging.Logger.handle

    def handled(logger: logging.Logger, record: logging.LogRecord) -> None:
        for each in list(logger.filters):  # the overlay's own line comes from one
            each.filter(record)
        said.append(f"{logger.name} {record.levelname} {record.getMessage()}")

    logging.Logger.handle = handled
    try:
        yield
    finally:
        logging.Logger.handle = handle


def described(value: Any) -> Any:
    """Everything in a value, as JSON has it."""
    if isinstance(value, torch.Tensor):
        layout = [list(value.shape), list(value.stride()), value.requires_grad]
        return [type(value).__name__, str(value.dtype), *layout, hashed(value)]
    if isinstance(value, nn.Module):
        return [type(value).__name__, described(vars(value))]
    if isinstance(value, dict):
        # A number is that of a hook, which torch counts on in all the process.
        names = ["number" if type(key) is int else str(key) for key in value]
        return [[name, described(item)] for name, item in zip(names, value.values(), strict=True)]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *(described(item) for item in value)]
    if isinstance(value, float) and abs(value - time.time()) < 1e4:
        return "now"
    return [type(value).__name__, without_places(repr(value))]


def hashed(tensor: torch.Tensor) -> str:
    """Of the bits; one NaN is as good as another."""
    values = tensor.detach().contiguous()
    if values.is_floating_point():
        values = torch.where(values != values, torch.full_like(values, numpy.nan), values)
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16]


def without_places(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x", text)
