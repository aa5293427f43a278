"""sparsity: the share of exact zeros among a model's parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import _native, reference, verify
from ..operation import Operation, small_layers
from ..originals import Originals

# Up to so many zeros are added up exactly, whatever the order.
EXACT = {torch.float32: 1 << 24, torch.float64: 1 << 53}


def sparsity(model: nn.Module) -> Tensor:
    """Zeros over elements of all parameters (each counted once): a 0-d tensor.

    Any dtype; -0.0 is a zero, NaN is not. The result has the default dtype, in which the zeros are
    added up parameter after parameter as YOLOv5 5.x does; for parameters on a GPU it is there, and
    nothing waits for it. ZeroDivisionError for a model without parameters. Paths: C on CPU tensors,
    the CUDA library on those of one GPU, otherwise torch.

    >>> sparsity(nn.BatchNorm2d(4))  # its weights are 1, its biases 0
    tensor(0.5000)
    """
    dtype = torch.get_default_dtype()
    if dtype in EXACT:
        done, counts = count(model, EXACT[dtype])
        if done:
            if not counts[0]:  # parameters
                raise ZeroDivisionError("float division by zero")
            return share(counts, dtype)
    else:
        OPERATION.note_torch(f"default dtype {dtype}")
    return reference.sparsity(model)


def count(model: nn.Module, limit: int) -> tuple[bool, Any]:
    """Count elements and zeros in C: (True, what _C.count_module_zeros returns), or (False, None).

    Three results are of a GPU.
    """
    return OPERATION.attempt(_native._C.count_module_zeros, model, limit)


def share(counts: Any, dtype: torch.dtype | None) -> Tensor:
    """The result of `count` as a share in this dtype; None: int64 zeros, divided by torch."""
    if len(counts) == 3:
        _, elements, zeros = counts
        total = zeros.view(torch.int64)
        return total[0] / elements if dtype is None else _share_on_gpu(total, elements, dtype)
    _, elements, zeros, share_float32, share_float64 = counts
    if dtype is None:
        return torch.tensor(zeros, dtype=torch.int64) / elements
    number = share_float32 if dtype == torch.float32 else share_float64
    return torch.scalar_tensor(number, dtype=dtype)


def _share_on_gpu(zeros: Tensor, elements: int, dtype: torch.dtype) -> Tensor:
    """Zeros, one sum or one number per parameter, over elements; torch divides.

    On a GPU torch multiplies by the reciprocal of a Python number.
    """
    if zeros.numel() == 1:
        return zeros[0].to(dtype) / float(elements)
    total = torch.empty((), dtype=dtype, device=zeros.device)
    reason, _ = _native.run(_native._C.sum_zeros, zeros, total)
    if reason is not None:  # the counts are there already; these are the original's additions
        OPERATION.note_torch(reason, 0)
        total.zero_()
        for number in zeros:
            total += number
    return total / float(elements)


def _usual() -> tuple[nn.Module]:
    model, _ = small_layers()
    return (model,)


OPERATION = Operation(
    "sparsity",
    ("sparsity",),
    "count_module_zeros",
    Originals(
        ("nn.Module", "parameters named_parameters _named_members named_modules"),
        ("Tensor", "numel __eq__ sum __add__ __radd__ __truediv__"),
    ),
    _usual,
    sparsity,
    reference.sparsity,
    _native._C.count_module_zeros,
    on_gpu=lambda counts: len(counts) == 3,
    compare=verify.sparsity,
)
