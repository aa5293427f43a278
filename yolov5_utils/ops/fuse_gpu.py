"""fuse on a GPU: all pairs in one launch of the CUDA library, or some torch operations for each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import _native, batched, reference, verify

Construct = Callable[[nn.Conv2d, torch.device], nn.Conv2d]


def is_on_gpu(conv: Any) -> bool:
    """True for a convolution whose weight lies on a CUDA device."""
    return getattr(getattr(conv, "weight", None), "is_cuda", False) is True


def fuse(
    convs: list[nn.Conv2d], bns: list[nn.BatchNorm2d], construct: Construct
) -> list[nn.Conv2d] | None:
    """Fuse pairs on one device, or None, once it was noted why, where the reference must do it.

    Waits once for the device, to learn of which pairs the original's matrix product may make other
    bits: those with a weight that is no finite number, which it spreads over the column, and, says
    the library, with a product that vanishes. The reference does them.
    """
    reason = _refusal(convs, bns)
    if reason is not None:
        _native.note_torch("fuse", reason)
        return None
    device = convs[0].weight.device
    fused = [construct(conv, device).requires_grad_(False) for conv in convs]
    pairs = [_tensors(*three) for three in zip(convs, bns, fused, strict=True)]
    flags = torch.empty(len(pairs), dtype=torch.int32, device=device)
    done, _ = _native.attempt("fuse", _native._C.fuse_on_gpu, pairs, flags)
    if done:
        _native.note_cuda("fuse")
    elif batched.is_watched() or not batched.fuse_pairs(pairs, flags):
        return None
    for i, doubtful in enumerate(flags.tolist()):
        if doubtful:
            fused[i] = reference.fuse_conv_and_bn(convs[i], bns[i])
        elif verify.ON and done:
            verify.fuse(convs[i], bns[i], fused[i])
    return fused


def _tensors(conv: nn.Conv2d, bn: nn.BatchNorm2d, fused: nn.Conv2d) -> tuple[Any, ...]:
    """What the library takes of a pair."""
    norm = (bn.weight, bn.bias, bn.running_mean, bn.running_var)
    return (conv.weight, conv.bias, *norm, fused.weight, fused.bias, bn.eps)


def _refusal(convs: list[nn.Conv2d], bns: list[nn.BatchNorm2d]) -> str | None:
    """Why the original's own operations have to run, or to raise; None where they need not."""
    if _autocast_is_on():
        return "autocast is on"
    if _precision_is_lowered():
        return "float32 matrix products run at a lower precision"
    grad = torch.is_grad_enabled()
    for conv, bn in zip(convs, bns, strict=True):
        names = ("weight", "bias", "running_mean", "running_var")
        inputs = [conv.weight, *(getattr(bn, name, None) for name in names)]
        inputs += [] if conv.bias is None else [conv.bias]
        if not all(type(tensor) in (Tensor, nn.Parameter) for tensor in inputs):
            return "a subclass of torch.Tensor, or no tensor"
        if grad and any(tensor.requires_grad for tensor in inputs):
            return "a gradient is wanted of the result"
        if type(getattr(bn, "eps", None)) is not float:
            return "bn.eps is not a Python float"
        channels = conv.weight.shape[:1]
        if channels == (1,) or any(tensor.shape != channels for tensor in inputs[1:]):
            # With one channel the matrix product adds no zeros, and torch may keep a −0.
            return "one output channel, or not one number of the batch norm for each"
        if any(tensor.dtype != conv.weight.dtype for tensor in inputs) or (
            conv.weight.dtype not in reference.USUAL_DTYPES
        ):
            return "not of one floating type"
        if any(tensor.device != convs[0].weight.device for tensor in inputs):
            return "on several devices"
    return None


def _find_autocast_check() -> Callable[[], bool]:
    """Whether autocast changes operations on CUDA tensors, as this torch is asked."""
    try:
        torch.is_autocast_enabled("cuda")
    except TypeError:  # before torch 2.4
        return torch.is_autocast_enabled
    return functools.partial(torch.is_autocast_enabled, "cuda")


def _find_precision_check() -> Callable[[], bool]:
    """Whether matrix products of float32 may use a shorter type inside, as this torch is asked."""
    getter = getattr(torch._C, "_get_fp32_precision_getter", None)
    if getter is not None:  # torch 2.9 and later
        return lambda: getter("cuda", "matmul") not in ("none", "ieee")
    return lambda: bool(torch.backends.cuda.matmul.allow_tf32)


_autocast_is_on = _find_autocast_check()
_precision_is_lowered = _find_precision_check()
