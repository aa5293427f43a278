"""The bits of tensors: which elements differ, where one NaN equals every other NaN."""

from __future__ import annotations

import torch
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per element


def of(tensor: Tensor) -> Tensor:
    """The elements as integers of their size."""
    if hasattr(tensor, "resolve_neg"):  # torch 1.10 and later
        tensor = tensor.resolve_conj().resolve_neg()
    return tensor.contiguous().view(_INTEGERS[tensor.element_size()])


def differ(found: Tensor, expected: Tensor) -> Tensor:
    """Where two tensors of one type and shape differ."""
    different = of(found) != of(expected)
    if found.is_floating_point():
        different &= ~(found.isnan() & expected.isnan())
    return different


def same(found: Tensor, expected: Tensor) -> bool:
    """True for equal types, shapes and bits."""
    alike = found.dtype == expected.dtype and found.shape == expected.shape
    return alike and not differ(found, expected).any()
