"""prune: convolutions of many sizes, with both choices among equally small weights."""

from __future__ import annotations

import contextlib
import io
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn

from ... import reference, torch_utils
from .comparison import Comparison
from .drawn import FLOATS, SIZES, values


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


def _check_prune() -> Comparison:
    to = Comparison("prune")
    generator = torch.Generator().manual_seed(3)
    for dtype in FLOATS:
        layers = []
        for size in (*SIZES, 1023, 1025, 5000, 70_000):
            layer = nn.Conv2d(1, 1, 1, bias=False)
            weights = values(size, dtype, generator).clone().view(-1, 1, 1, 1)
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


CHECKS = {"prune": _check_prune}
