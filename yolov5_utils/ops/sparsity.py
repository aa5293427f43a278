"""sparsity: the share of exact zeros among a model's parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _native, reference, verify


def sparsity(model: nn.Module) -> Tensor:
    """Zeros over elements of all parameters (each counted once): a 0-d tensor.

    Any dtype; -0.0 is a zero, NaN is not. The result has the default dtype, in which the zeros are
    added up parameter after parameter as YOLOv5 5.x does. ZeroDivisionError for a model without
    parameters. Paths: C on CPU tensors, otherwise torch.
    """
    dtype = torch.get_default_dtype()
    if dtype in (torch.float32, torch.float64):
        done, counts = verify.attempt("sparsity", _native._C.count_module_zeros, model)
        if done:
            parameters, _, _, share_float32, share_float64 = counts
            if parameters == 0:
                raise ZeroDivisionError("float division by zero")
            share = share_float32 if dtype == torch.float32 else share_float64
            return torch.scalar_tensor(share, dtype=dtype)
    else:
        _native.note_torch("sparsity", f"default dtype {dtype}")
    return reference.sparsity(model)
