"""fuse_model: every convolution of a model with its batch norm as one convolution."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import compress, repeat
from operator import is_
from typing import Any, cast

from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.batchnorm import _BatchNorm

from .. import probe
from .fuse import fuse_conv_and_bn, fuse_in_c
from .fuse_gpu import is_on_gpu

# Elements of weights that one call of C fuses: enough for torch's threads to be worth starting, so
# few that the bar moves.
_BATCH_ELEMENTS = 16 << 20

# What YOLOv5 names the forward function of a module without batch norm: 6.0 and later, 5.0.
_FORWARDS = ("forward_fuse", "fuseforward")

# A module, its convolution and batch norm, and the method that takes forward's place.
_Pair = tuple[nn.Module, nn.Conv2d, nn.BatchNorm2d, Callable[..., Any]]

_BAR_AFTER_S = 1.0
_BAR_WIDTH = 30


def fuse_model(model: nn.Module) -> nn.Module:
    """Fuse every convolution with its batch norm, in place, as YOLOv5's Model.fuse does; the model.

    A pair is found in each module of model.modules() whose attributes `conv` and `bn` are an
    nn.Conv2d and a batch norm (also SyncBatchNorm), that has a method `forward_fuse` (or 5.0's
    `fuseforward`) and no other convolution among its children. `conv` becomes the fused one, `bn`
    is deleted, `forward` becomes that method; all other modules, and convolutions beside a batch
    norm in an nn.Sequential, stay as they are. Every pair is fused before the first module is
    changed: an error, those of fuse_conv_and_bn, leaves the model as it was. Threads may fuse one
    model at the same time: each module changes once, in one step, and all are fused when any of the
    calls returns; only a forward pass that is inside a module at that moment misses the batch norm
    (AttributeError). A bar appears on a terminal's stderr after a second. Paths: C on CPU tensors,
    the CUDA library on those of one GPU (all pairs in one launch), otherwise torch. Source of the
    semantics: YOLOv5 5.0 and later.

    >>> class Block(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    ...
    ...     def forward_fuse(self, x):
    ...         return self.conv(x)
    >>> hasattr(fuse_model(Block()), "bn")
    False
    """
    found = fusable(model)
    fused: list[nn.Conv2d] = []
    bar = _Bar(len(found))
    try:
        for batch in _batches(found):
            made = fuse_in_c([conv for _, conv, _, _ in batch], [bn for _, _, bn, _ in batch])
            if made is not None:
                fused += made
                bar.show(len(fused))
            else:  # one by one, which notes what is for torch, and why
                for _, conv, bn, _ in batch:
                    fused.append(fuse_conv_and_bn(conv, bn))
                    bar.show(len(fused))
    finally:
        bar.close()
    hooked = bool(torch_module.__dict__.get("_global_module_registration_hooks"))
    for pair, conv in zip(found, fused, strict=True):
        if hooked or _does_more(type(pair[0])):
            _set(pair, conv)
        else:
            _exchange(pair, conv)
    return model


def fusable(model: nn.Module) -> list[_Pair]:
    """The pairs of model.modules(), from the first to the last of its children."""
    found: list[_Pair] = []
    seen: set[nn.Module] = set()
    stack: list[nn.Module | None] = [model]
    while stack:
        module = stack.pop()
        if module is None or not module._modules or module in seen:
            continue
        children = dict(module._modules)  # other threads may change them
        seen.add(module)
        stack += children.values()
        conv, bn = children.get("conv"), children.get("bn")
        if isinstance(conv, nn.Conv2d) and isinstance(bn, _BatchNorm):
            forward = _forward(module)
            if forward is not None and _convolutions(children) == 1:
                found.append((module, conv, bn, forward))  # type: ignore[arg-type]
    return found[::-1]


def _convolutions(children: Mapping[str, nn.Module | None]) -> int:
    return len([child for child in children.values() if isinstance(child, nn.Conv2d)])


def _forward(module: nn.Module) -> Callable[..., Any] | None:
    for name in _FORWARDS:
        method = getattr(module, name, None)
        if callable(method):
            return cast(Callable[..., Any], method)
    return None


def _does_more(kind: type) -> bool:
    """True where setting or deleting an attribute is not just a matter of a module's dicts."""
    plain = kind.__setattr__ is nn.Module.__setattr__ and kind.__delattr__ is nn.Module.__delattr__
    return not plain or hasattr(kind, "conv")


def _exchange(pair: _Pair, fused: nn.Conv2d) -> None:
    """Put the fused convolution into a module that still has this pair, in one step.

    Other threads, and handlers of signals, see the module before it or after it: the step is one
    call of C that runs no Python, and it looks itself whether the children are still those that
    were copied.
    """
    module, conv, bn, forward = pair
    members = module.__dict__
    while (children := members["_modules"]).get("conv") is conv and children.get("bn") is bn:
        changed = children.copy()
        changed["conv"] = fused
        del changed["bn"]
        unchanged = map(is_, map(members.get, repeat("_modules")), repeat(children))
        members.update(compress((("forward", forward), ("_modules", changed)), unchanged))


def _set(pair: _Pair, fused: nn.Conv2d) -> None:
    """The same by the attributes of a module which does more when they are set.

    Of several threads the one that deletes the batch norm goes on; what it cannot set is undone.
    """
    module, conv, bn, forward = pair
    children = module._modules
    if children.get("conv") is not conv or children.get("bn") is not bn:
        return
    try:
        del module.bn
    except (AttributeError, KeyError):
        if children.get("bn") is bn:
            raise
        return
    try:
        module.conv = fused
        module.forward = forward
    except BaseException:
        children.update(conv=conv, bn=bn)
        raise


def _batches(pairs: list[_Pair]) -> Iterator[list[_Pair]]:
    if pairs and all(is_on_gpu(conv) for _, conv, _, _ in pairs):
        yield pairs
        return
    start = total = 0
    for i, (_, conv, _, _) in enumerate(pairs):
        weight = conv._parameters.get("weight")
        total += weight.numel() if weight is not None else 0
        if total >= _BATCH_ELEMENTS:
            yield pairs[start : i + 1]
            start, total = i + 1, 0
    if start < len(pairs):
        yield pairs[start:]


class _Bar:
    """A line on stderr that says how far this is, once it takes long; nothing but on a terminal."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.shown = False
        self.start = time.perf_counter()
        # Of a stream that is closed, missing or no file at all, as of any that fails: no bar.
        self.wanted = bool(probe.answer(lambda: sys.stderr.isatty()))

    def show(self, done: int) -> None:
        """Draw the bar anew."""
        if self.wanted and time.perf_counter() - self.start >= _BAR_AFTER_S:
            self.shown = True
            marks = "#" * (_BAR_WIDTH * done // self.total)
            line = f"\rfusing [{marks:<{_BAR_WIDTH}}] {done}/{self.total} layers"
            probe.answer(print, line, end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line."""
        if self.shown:
            probe.answer(print, file=sys.stderr)
