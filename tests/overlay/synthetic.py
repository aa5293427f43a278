"""The text of small modules with the names, signatures and arithmetic of YOLOv5's torch_utils.

Only what the overlay looks at is there; the texts are this project's own.
"""

from __future__ import annotations

RELEASES = ("5.0", "6.0", "between", "6.1", "6.2", "7.0")

_COMMON = '''
"""A synthetic client."""
import logging
import math
from copy import deepcopy

import torch
from torch import nn

{logger} = logging.getLogger("client")


def torch_distributed_zero_first(local_rank): ...
def select_device(device=""): ...
def model_info(model): ...
def initialize_weights(model): ...
def prune(model, amount=0.3): ...
def fuse_conv_and_bn(conv, bn): ...
def scale_img(img, ratio=1.0, same_shape=False, gs=32): ...


def copy_attr(a, b, include=(), exclude=()):
    for key in include:
        setattr(a, key, getattr(b, key))


def is_parallel(model):
    return type(model) in (nn.DataParallel, nn.parallel.DistributedDataParallel)


def de_parallel(model):
    return model.module if is_parallel(model) else model


def smart_inference_mode():
    return torch.inference_mode()


def sparsity(model):
    """How much of it is nothing."""
    numbers, nothings = {zero}, {zero}
    for weights in model.parameters():
        numbers += weights.numel()
        nothings += (weights == 0).sum()
    return nothings / numbers


class ModelEMA:
    """Text that must stay."""

    def __init__(self, model, decay=0.9999, {tau}updates=0):
        self.ema = deepcopy(de_parallel(model)).eval()
        self.updates = updates
        self.decay = lambda x: decay * (1 - math.exp(-x / 2000))
        for weights in self.ema.parameters():
            weights.requires_grad_(False)

{update}
    def update_attr(self, model, include=(), exclude=("process_group", "reducer")):
        copy_attr(self.ema, model, include, exclude)
'''

_STATE_OF = {
    "is_parallel": "model.module.state_dict() if is_parallel(model) else model.state_dict()",
    "de_parallel": "de_parallel(model).state_dict()",
}


def _update(helper: str, one: str, guard: str) -> str:
    """ModelEMA.update: `guard` is "no_grad", "decorator" or nothing."""
    lines = [
        "self.updates += 1",
        "share = self.decay(self.updates)",
        "",
        f"new = {_STATE_OF[helper]}",
        "for name, old in self.ema.state_dict().items():",
        "    if old.dtype.is_floating_point:  # not the counters",
        "        old *= share",
        f"        old += ({one} - share) * new[name].detach()",
    ]
    if guard == "no_grad":
        lines = ["with torch.no_grad():", *("    " + line for line in lines)]
    head = ["@smart_inference_mode()"] if guard == "decorator" else []
    head += ["def update(self, model):", '    """Move a little."""']
    return "".join(f"    {line}\n" for line in (*head, *("    " + line for line in lines)))


_UPDATES = {
    "5.0": _update("is_parallel", "1.", "no_grad"),
    "6.0": _update("is_parallel", "1.", "no_grad"),
    "between": _update("is_parallel", "1", "no_grad"),
    "6.1": _update("de_parallel", "1", "no_grad"),
    "6.2": _update("de_parallel", "1", "decorator"),
    "7.0": _update("de_parallel", "1", ""),
}


def text_of(release: str) -> str:
    """A client's torch_utils.py as of `release`, one of RELEASES."""
    early = release in ("5.0", "6.0")
    return _COMMON.format(
        logger="logger" if release == "5.0" else "LOGGER",
        zero="0." if early else "0",
        tau="tau=2000, " if release in ("6.2", "7.0") else "",
        update=_UPDATES[release],
    )


def edited(old: str, new: str, release: str = "7.0") -> str:
    """The text of `release` with one change: a fork's."""
    text = text_of(release)
    if text.count(old) != 1:
        raise ValueError(f"{old!r} occurs {text.count(old)} times")
    return text.replace(old, new)
