"""A random call of each hot path: what it is given, the package's function, the reference's, and
what both must leave the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from yolov5_utils import reference
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.ops.ema import update_modules
from yolov5_utils.ops.fuse import fuse_conv_and_bn
from yolov5_utils.ops.prune import prune_layers
from yolov5_utils.ops.scale_img import scale_img
from yolov5_utils.ops.sparsity import sparsity
from yolov5_utils.ops.time_synchronized import time_synchronized

from .draw import FLOATS, OTHERS, Draw

DECAYS = (0.0, 1.0, -0.5, 1.5, math.nan, math.inf, 1e-45, 1e300, 2, True, "0.5", None, 1j)
AMOUNTS = (
    *(0, 1, 2, 0.0, 1.0, -0.1, 1.1, -1, 10**9, 10**400, True, math.nan, "0.3", None),
    np.float32(0.3),
)
RATIOS = (
    *(1.0, 1, 2, 0.5, 0.0, -0.5, math.nan, math.inf, 1e-9, 1e17, 10**400, "2", None),
    np.float32(0.7),
)
GRIDS = (1, 7, 16, 64, 0, -32, 32.0, 2.5, "32", None, 2**40, -(10**30), 10**400, np.int64(32))
EPSILONS = (0.0, 1e-5, 1e-12, 0.0513, 1, -1.0, math.inf, math.nan)
PADDINGS = ("zeros", "reflect", "replicate", "circular")


class Case(NamedTuple):
    """`given` is compared afterwards, too, module by module and tensor by tensor."""

    given: tuple[Any, ...]
    ours: Callable[[], Any]
    theirs: Callable[[], Any]


def _place(draw: Draw, root: nn.Module, name: str) -> nn.Module:
    """A submodule some levels down, which all tensors of this name go to."""
    module = root
    for part in name.split(".")[:-1]:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]  # type: ignore[assignment]
    return module


def _add(draw: Draw, root: nn.Module, name: str, tensor: Tensor, parameter: bool) -> None:
    module, leaf = _place(draw, root, name), name.rpartition(".")[2]
    if parameter:
        module.register_parameter(leaf, draw.parameter(tensor))
    else:
        module.register_buffer(leaf, tensor, persistent=not draw.chance(0.05))


def _name(draw: Draw, number: int) -> str:
    levels = [f"m{draw.random.randrange(3)}" for _ in range(draw.random.randrange(3))]
    return ".".join([*levels, f"t{number}"])


def ema(draw: Draw) -> Case:
    average, source = nn.Module(), nn.Module()
    for number in range(1 + draw.size(1)):
        name, parameter = _name(draw, number), draw.chance(0.5)
        dtype = draw.often(draw.often(FLOATS[0], FLOATS, 0.4), OTHERS, 0.05)
        shape = draw.shape()
        value = draw.tensor(shape, dtype, 0.75)
        _add(draw, average, name, value, parameter)
        if draw.chance(0.01):  # a key that the source lacks
            continue
        if draw.chance(0.02):  # shared memory
            new = value if draw.chance(0.5) else value[..., :1].expand(shape) if shape else value
        elif draw.chance(0.03):  # shapes that may or may not broadcast
            new = draw.tensor(draw.choice((shape[1:], (1, *shape), (*shape, 2), (3,))), dtype)
        else:
            other = draw.often(dtype, FLOATS, 0.1)
            new = draw.tensor(shape, other, 0.75)
        _add(draw, source, name, new, parameter)
    if draw.chance(0.05):  # tied entries
        tied = average._buffers.get("t0")
        average.register_buffer("tied", tied)
        source.register_buffer("tied", tied if draw.chance(0.2) else source._buffers.get("t0"))
    if draw.chance(0.05):
        _add(draw, source, "more", draw.tensor((3,), torch.float32), False)
    decay = draw.often(draw.random.random(), DECAYS, 0.1)
    return Case(
        (average, source),
        lambda: update_modules(average, source, decay),  # type: ignore[arg-type]
        lambda: reference.ema_update(average, source, decay),  # type: ignore[arg-type]
    )


def zeros(draw: Draw) -> Case:
    model = nn.Module()
    for number in range(draw.size(2)):
        dtype = draw.often(FLOATS[0], (*FLOATS, *OTHERS), 0.3)
        tensor = draw.tensor(draw.shape(), dtype, 0.8)
        _add(draw, model, _name(draw, number), tensor, draw.chance(0.9))
    if draw.chance(0.1) and model._parameters:
        model.again = next(iter(model._parameters.values()))
    return Case((model,), lambda: sparsity(model), lambda: reference.sparsity(model))


class OwnConvolution(nn.Conv2d):
    """A subclass, as models have them."""


def _convolution(
    draw: Draw, room: int | None = None, dtype: torch.dtype | None = None
) -> nn.Conv2d:
    """With a weight of any sizes whose memory may have any order."""
    groups = 1 + draw.often(0, (1, 2), 0.2)
    rows = 1 + draw.size(2, room)
    columns = 1 + draw.size(2, max(1, draw.room // rows))
    left = max(1, draw.room // (rows * columns))
    kernel = [1 + draw.size(0.4, math.isqrt(left)) for _ in range(2)]
    kind = draw.often(nn.Conv2d, (OwnConvolution,), 0.1)
    mode = draw.often("zeros", PADDINGS, 0.1)
    padding: Any = draw.often(0, (1, (0, 1), "same", "valid"), 0.3)
    dilation = draw.often(1, (2, (1, 2)), 0.2)
    bias = draw.chance(0.4)  # the smallest one, whose weights take no time to draw
    conv = kind(groups, groups, 1, 1, padding, dilation, groups, bias, mode)
    conv.in_channels, conv.out_channels = groups * columns, groups * rows
    conv.kernel_size = (kernel[0], kernel[1])
    dtype = dtype or draw.often(FLOATS[0], FLOATS, 0.4)
    shape = (groups * rows, columns, *kernel)
    conv.weight = draw.parameter(draw.tensor(shape, dtype, 0.85))
    if conv.bias is not None:
        conv.bias = draw.parameter(draw.tensor((groups * rows,), draw.often(dtype, FLOATS, 0.05)))
    return conv


def _by_position(model: nn.Module, amount: Any) -> None:
    """Pruning by a stable sort, with which the first of equally small weights go."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            weight = module._parameters.pop("weight")
            assert weight is not None
            flat = weight.detach().clone(memory_format=torch.contiguous_format).view(-1)
            count = amount if isinstance(amount, int) else round(amount * flat.numel())
            keys = flat.abs().double()
            gone = keys.sort(stable=True).indices[:count]
            flat[gone] = flat[gone] * 0
            weight.data = flat.view(weight.shape)
            module._parameters["weight"] = weight


def pruned(draw: Draw) -> Case:
    model = nn.Sequential()
    sizes = [1]
    for number in range(draw.size(1)):
        layer: nn.Module = nn.BatchNorm2d(2)
        if draw.chance(0.85):
            layer = _convolution(draw)
            sizes.append(layer.weight.numel())  # type: ignore[union-attr, operator]
            if draw.chance(0.1):
                layer.weight.grad = torch.ones_like(layer.weight)  # type: ignore[union-attr, arg-type]
        model.add_module(f"layer{number}", layer)
        if draw.chance(0.03):
            model.add_module(f"again{number}", layer)
    amount = draw.often(draw.random.random(), AMOUNTS, 0.15)
    usual = isinstance(amount, float) and 0 <= amount <= 1
    ties = draw.often("torch", ("position",), 0.3) if usual else "torch"
    by_torch = OPERATIONS["prune"].counted()["torch"]

    def theirs() -> None:
        left_to_torch = OPERATIONS["prune"].counted()["torch"] > by_torch
        if ties == "torch" or left_to_torch:  # then the choice is torch's, too
            reference.prune_layers(model, amount)  # type: ignore[arg-type]
        else:
            _by_position(model, amount)

    return Case(
        (model,),
        lambda: prune_layers(model, amount, ties=ties),  # type: ignore[arg-type]
        theirs,
    )


def fused(draw: Draw) -> Case:
    room = math.isqrt(draw.room)  # the reference makes a square matrix
    dtype = draw.often(FLOATS[0], FLOATS, 0.4)
    conv = _convolution(draw, room, dtype)
    rows = draw.often(conv.out_channels, (1, 2, conv.out_channels + 1), 0.02)
    bn = nn.BatchNorm2d(1, eps=draw.often(1e-3, EPSILONS, 0.3), affine=not draw.chance(0.03))
    bn.num_features = rows
    if bn.affine:
        bn.weight = draw.parameter(draw.tensor((rows,), draw.often(dtype, FLOATS, 0.03)))
        bn.bias = draw.parameter(draw.tensor((rows,), dtype))
    bn.running_mean = draw.tensor((rows,), draw.often(dtype, FLOATS, 0.03))
    variance = draw.tensor((rows,), dtype)
    bn.running_var = draw.often(variance.abs(), (variance, None), 0.05)  # type: ignore[assignment]
    if draw.chance(0.7):
        for module in (conv, bn):
            module.requires_grad_(False)
    return Case(
        (conv, bn),
        lambda: fuse_conv_and_bn(conv, bn),
        lambda: reference.fuse_conv_and_bn(conv, bn),
    )


def scaled(draw: Draw) -> Case:
    dims = draw.often(4, (2, 3, 5), 0.03)
    shape = list(draw.shape(dims, scale=200))
    if dims == 4 and draw.chance(0.7):
        shape[1] = draw.choice((1, 2, 3, 3, 3, 4, 5, 8, 16))
    dtype = draw.often(FLOATS[0], (*FLOATS, *OTHERS), 0.1)
    image = draw.tensor(shape, dtype, 0.6)
    if draw.chance(0.3) and dims == 4:
        image = image.contiguous(memory_format=torch.channels_last)
    if draw.chance(0.05) and image.is_floating_point():
        image = image.detach().requires_grad_()
    largest = max(1.0, math.sqrt(draw.room / max(1, image.numel())))
    ratio = draw.often(draw.random.uniform(0.1, 1.6), RATIOS, 0.15)
    if draw.chance(0.05):
        ratio = min(1 + draw.size(2) / 2, largest)
    same_shape, gs = draw.chance(0.3), draw.often(32, GRIDS, 0.15)
    given = (image, ratio, same_shape, gs)
    return Case(
        (image,),
        lambda: scale_img(*given),  # type: ignore[arg-type]
        lambda: reference.scale_img(*given),  # type: ignore[arg-type]
    )


def clock(draw: Draw) -> Case:
    def between() -> bool:
        before = reference.time_synchronized()
        return before <= time_synchronized() <= reference.time_synchronized()

    return Case((), between, lambda: True)


# Name of the operation -> what draws a call, and how often.
CASES: dict[str, tuple[Callable[[Draw], Case], int]] = {
    "ema": (ema, 6),
    "sparsity": (zeros, 4),
    "prune": (pruned, 4),
    "fuse": (fused, 4),
    "scale_img": (scaled, 5),
    "time_synchronized": (clock, 1),
}
