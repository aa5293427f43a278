"""fuse_conv_and_bn: layers of many sizes, in every floating type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from ... import reference, torch_utils
from .comparison import Comparison
from .drawn import FLOATS, layers


def _fused(function: Callable[..., nn.Conv2d], *layers: nn.Module) -> dict[str, Any]:
    return function(*layers).state_dict()


def _check_fuse() -> Comparison:
    to = Comparison("fuse")
    for seed, dtype in enumerate(FLOATS * 12):
        conv, bn = layers(seed, dtype)
        to.add(
            f"{conv}, {dtype}",
            partial(_fused, torch_utils.fuse_conv_and_bn, conv, bn),
            partial(_fused, reference.fuse_conv_and_bn, conv, bn),
        )
    return to


CHECKS = {"fuse": _check_fuse}
