"""fuse_model: every convolution of a model with its batch norm as one convolution."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .fuse import fuse_conv_and_bn, fuse_in_c

# Bytes of weights that one call of C fuses: enough for torch's threads to be worth starting, so few
# that the bar moves.
_BATCH_BYTES = 64 << 20

# What YOLOv5 names the forward function of a module without batch norm: 6.0 and later, 5.0.
_FORWARDS = ("forward_fuse", "fuseforward")

_BAR_AFTER_S = 1.0
_BAR_WIDTH = 30


def fuse_model(model: nn.Module) -> nn.Module:
    """Fuse every convolution with its batch norm, in place, as YOLOv5's Model.fuse does; the model.

    A pair is found in each module of model.modules() whose attributes `conv` and `bn` are an
    nn.Conv2d and a batch norm (also SyncBatchNorm), that has a method `forward_fuse` (or 5.0's
    `fuseforward`) and no other convolution among its children. `conv` becomes the fused one, `bn`
    is deleted, `forward` becomes that method; all other modules, and convolutions beside a batch
    norm in an nn.Sequential, stay as they are. Every pair is fused before the first module is
    changed: an error, those of fuse_conv_and_bn, leaves the model as it was. A bar appears on a
    terminal's stderr after a second. Paths: C on CPU tensors, otherwise torch. Source of the
    semantics: YOLOv5 5.0 and later.
    """
    found = list(_fusable(model))
    fused: list[nn.Conv2d] = []
    bar = _Bar(len(found))
    try:
        for batch in _batches(found):
            made = fuse_in_c([module.conv for module in batch], [module.bn for module in batch])
            if made is not None:
                fused += made
                bar.show(len(fused))
            else:  # one by one, which notes what is for torch, and why
                for module in batch:
                    fused.append(fuse_conv_and_bn(module.conv, module.bn))
                    bar.show(len(fused))
    finally:
        bar.close()
    for module, conv in zip(found, fused, strict=True):
        module.conv = conv
        del module.bn
        module.forward = getattr(module, _forward_name(module))
    return model


def _fusable(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        children = module._modules
        if (
            isinstance(children.get("conv"), nn.Conv2d)
            and isinstance(children.get("bn"), _BatchNorm)
            and sum(isinstance(child, nn.Conv2d) for child in children.values()) == 1
            and _forward_name(module)
        ):
            yield module


def _forward_name(module: nn.Module) -> str:
    """The name of the method that takes forward's place, or an empty one."""
    names = [name for name in _FORWARDS if callable(getattr(module, name, None))]
    return names[0] if names else ""


def _batches(modules: list[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    total = 0
    for module in modules:
        weight = module.conv.weight
        batch.append(module)
        total += weight.numel() * weight.element_size()
        if total >= _BATCH_BYTES:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


class _Bar:
    """A line on stderr that says how far this is, once it takes long; nothing but on a terminal."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.shown = False
        self.start = time.perf_counter()
        self.wanted = sys.stderr is not None and sys.stderr.isatty()

    def show(self, done: int) -> None:
        """Draw the bar anew."""
        if self.wanted and time.perf_counter() - self.start >= _BAR_AFTER_S:
            self.shown = True
            marks = "#" * (_BAR_WIDTH * done // self.total)
            line = f"\rfusing [{marks:<{_BAR_WIDTH}}] {done}/{self.total} layers"
            print(line, end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line."""
        if self.shown:
            print(file=sys.stderr)
