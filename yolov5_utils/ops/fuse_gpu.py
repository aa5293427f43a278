"""fuse on a GPU: all pairs in one launch of the CUDA library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import _native, reference

Construct = Callable[[nn.Conv2d, torch.device], nn.Conv2d]


def is_on_gpu(conv: Any) -> bool:
    """True for a convolution whose weight lies on a CUDA device."""
    members = getattr(conv, "__dict__", {})
    # Where nn.Conv2d finds it, too, but in less time; a parametrization has it elsewhere.
    weight = members.get("weight")
    if weight is None:
        weight = members.get("_parameters", {}).get("weight")
    if weight is None:
        weight = getattr(conv, "weight", None)
    return getattr(weight, "is_cuda", False) is True


def fuse(
    convs: list[nn.Conv2d], bns: list[nn.BatchNorm2d], construct: Construct
) -> tuple[str | None, list[nn.Conv2d | None]]:
    """Fuse pairs on one device: why this cannot do it, or None, and the convolutions.

    Waits once for the device, to learn of which pairs the original's matrix product may make other
    bits: those with a weight that is no finite number, which it spreads over the column, and, says
    the library, with a product that vanishes. Each of them is None: the reference must do it.
    """
    inputs = [_inputs(conv, bn) for conv, bn in zip(convs, bns, strict=True)]
    reason = _refusal(inputs, bns)
    if reason is not None:
        return reason, []
    device = convs[0].weight.device
    made = [construct(conv, device) for conv in convs]
    results = [conv._parameters for conv in made]
    pairs = [
        (*tensors, result["weight"], result["bias"], bn.eps)
        for tensors, result, bn in zip(inputs, results, bns, strict=True)
    ]
    flags = torch.empty(len(pairs), dtype=torch.int32, device=device)
    reason, _ = _native.run(_native._C.fuse_on_gpu, pairs, flags)
    if reason is not None:
        return reason, []
    fused = [None if flag else conv for flag, conv in zip(flags.tolist(), made, strict=True)]
    return None, fused


def _inputs(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Any, ...]:
    """What is read of a pair: the convolution's tensors and the batch norm's, or None."""
    norm = [getattr(bn, name, None) for name in ("weight", "bias", "running_mean", "running_var")]
    return (conv.weight, conv.bias, *norm)


def _refusal(pairs: list[tuple[Any, ...]], bns: list[nn.BatchNorm2d]) -> str | None:
    """Why the original's own operations have to run, or to raise; None where they need not."""
    grad, device = torch.is_grad_enabled(), pairs[0][0].device
    for (weight, bias, *norm), bn in zip(pairs, bns, strict=True):
        vectors = norm if bias is None else [bias, *norm]
        inputs = [weight, *vectors]
        if any(type(tensor) not in (Tensor, nn.Parameter) for tensor in inputs):
            return "a subclass of torch.Tensor, or no tensor"
        if grad and any(tensor.requires_grad for tensor in inputs):
            return "a gradient is wanted of the result"
        if type(getattr(bn, "eps", None)) is not float:
            return "bn.eps is not a Python float"
        channels = weight.shape[:1]
        if channels == (1,) or any(vector.shape != channels for vector in vectors):
            # With one channel the matrix product adds no zeros, and torch may keep a −0.
            return "one output channel, or not one number of the batch norm for each"
        dtype = weight.dtype
        if dtype not in reference.USUAL_DTYPES or any(vector.dtype != dtype for vector in vectors):
            return "not of one floating type"
        if any(tensor.device != device for tensor in inputs):
            return "on several devices"
    return None
