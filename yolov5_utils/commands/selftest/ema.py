"""The EMA: all pairs of floating types, and models."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn

from ... import reference, torch_utils
from .comparison import Comparison
from .drawn import FLOATS, SIZES, Bag, models, values

_DECAYS = (0.0, 0.0005, 0.5, 0.9999, 1.0)


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


def _compare_ema(to: Comparison, average: nn.Module, source: nn.Module, decays: Any) -> None:
    for decay in decays:
        to.add(
            f"decay {decay}",
            partial(_averaged, average, source, decay),
            partial(_averaged_by_torch, average, source, decay),
        )


def _compare_dtypes(to: Comparison, average: torch.dtype, source: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = (
        Bag([values(size, dtype, generator) for size in SIZES]) for dtype in (average, source)
    )
    _compare_ema(to, first, second, _DECAYS)


def _check_ema_dtypes() -> Comparison:
    to = Comparison("ema")
    for dtype in FLOATS:
        _compare_dtypes(to, dtype, dtype)
    return to


def _check_ema_mixed() -> Comparison:
    to = Comparison("ema")
    first, *others = FLOATS
    for dtype in others:
        _compare_dtypes(to, first, dtype)
        _compare_dtypes(to, dtype, first)
    return to


def _check_ema_models() -> Comparison:
    to = Comparison("ema")
    for model in models():
        average = deepcopy(model)
        for value in average.state_dict().values():
            if value.is_floating_point():
                value.mul_(1.001).add_(0.01)
        _compare_ema(to, average, model, [0.997])
    return to


CHECKS = {
    "ema, dtypes": _check_ema_dtypes,
    "ema, mixed dtypes": _check_ema_mixed,
    "ema, models": _check_ema_models,
}
