"""sparsity: the share of exact zeros among a model's parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _native, batched, verify

# Up to so many zeros are added up exactly, whatever the order.
EXACT = {torch.float32: 1 << 24, torch.float64: 1 << 53}


def sparsity(model: nn.Module) -> Tensor:
    """Zeros over elements of all parameters (each counted once): a 0-d tensor.

    Any dtype; -0.0 is a zero, NaN is not. The result has the default dtype, in which the zeros are
    added up parameter after parameter as YOLOv5 5.x does; for parameters on a GPU it is there, and
    nothing waits for it. ZeroDivisionError for a model without parameters. Paths: C on CPU tensors,
    the CUDA library on those of one GPU, otherwise torch.
    """
    dtype = torch.get_default_dtype()
    if dtype in EXACT:
        count = _native._C.count_module_zeros
        done, counts = verify.attempt("sparsity", count, model, EXACT[dtype])
        if done and len(counts) == 3:
            _native.note_cuda("sparsity")
            _, elements, zeros = counts
            return share_on_gpu(zeros.view(torch.int64), elements, dtype)
        if done:
            parameters, _, _, share_float32, share_float64 = counts
            if parameters == 0:
                raise ZeroDivisionError("float division by zero")
            share = share_float32 if dtype == torch.float32 else share_float64
            return torch.scalar_tensor(share, dtype=dtype)
    else:
        _native.note_torch("sparsity", f"default dtype {dtype}")
    return batched.sparsity(model)


def share_on_gpu(zeros: Tensor, elements: int, dtype: torch.dtype) -> Tensor:
    """Zeros, one sum or one number per parameter, over elements; torch divides.

    On a GPU torch multiplies by the reciprocal of a Python number.
    """
    if zeros.numel() == 1:
        return zeros[0].to(dtype) / float(elements)
    total = torch.empty((), dtype=dtype, device=zeros.device)
    reason, _ = _native.run(_native._C.sum_zeros, zeros, total)
    if reason is not None:  # the counts are there already; these are the original's additions
        _native.note_torch("sparsity", reason, 0)
        total.zero_()
        for number in zeros:
            total += number
    return total / float(elements)
