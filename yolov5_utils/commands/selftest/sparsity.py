"""sparsity: parameters of every type, and models."""

from __future__ import annotations

import torch
from torch import nn

from ... import reference, torch_utils
from .comparison import Comparison
from .drawn import FLOATS, INTEGERS, SIZES, Bag, models, values


def _compare_sparsity(to: Comparison, what: str, model: nn.Module) -> None:
    to.add(
        what,
        lambda: {"share": torch_utils.sparsity(model)},
        lambda: {"share": reference.sparsity(model)},
    )


def _check_sparsity_dtypes() -> Comparison:
    to = Comparison("sparsity")
    generator = torch.Generator().manual_seed(2)
    for dtype in (*FLOATS, *INTEGERS):
        tensors = [values(size, dtype, generator) for size in SIZES]
        _compare_sparsity(to, str(dtype), Bag(tensors, parameters=True))
    return to


def _check_sparsity_models() -> Comparison:
    to = Comparison("sparsity")
    for model in models():
        _compare_sparsity(to, str(model[0]), model)  # type: ignore[index]
    return to


CHECKS = {
    "sparsity, dtypes": _check_sparsity_dtypes,
    "sparsity, models": _check_sparsity_models,
}
