"""The hot paths as plain torch operations: the way out, the oracle of tests and demo.

Each function performs the same tensor operations, in the same order and with the same roundings, as
YOLOv5 of July 2021. Must not know the C extension.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune


def ema_update(average: nn.Module, source: nn.Module, decay: float) -> None:
    """average = decay · average + (1 − decay) · source over the floating entries of state_dict.

    KeyError for an entry that `source` lacks, RuntimeError for a shape that does not broadcast;
    nothing is written when an error is raised.
    """
    with torch.no_grad():
        ema_update_states(average.state_dict(), source.state_dict(), decay)


def ema_update_states(
    average: Mapping[str, Tensor], source: Mapping[str, Tensor], decay: float
) -> None:
    """`ema_update` on two state dicts."""
    floating = [(key, value) for key, value in average.items() if value.dtype.is_floating_point]
    pairs = [(value, source[key].detach()) for key, value in floating]
    _check_pairs(pairs, decay)
    for value, new in pairs:
        value *= decay
        value += (1 - decay) * new


def _check_pairs(pairs: list[tuple[Tensor, Tensor]], decay: float) -> None:
    """Raise what the update of any pair would raise, before the first write."""
    seen = set()
    for value, new in pairs:
        if any(t.layout is not torch.strided or t.is_nested for t in (value, new)):
            continue
        if value.shape != new.shape:
            # Operands without memory of their own: raises what the addition itself would.
            torch.zeros(()).expand(value.shape) + torch.zeros(()).expand(new.shape)
        if value.shape != new.shape or 0 in value.stride():
            trial = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device="meta"
            )
            trial += torch.empty(new.shape, dtype=new.dtype, device="meta")
        kind = (value.dtype, value.device, new.dtype, new.device)
        if kind not in seen and not isinstance(decay, Tensor):
            seen.add(kind)
            one = torch.ones(1, dtype=value.dtype, device=value.device)
            one *= decay
            one += (1 - decay) * torch.ones(1, dtype=new.dtype, device=new.device)


def sparsity(model: nn.Module) -> Tensor:
    """Zeros over elements of all parameters: a 0-d tensor in the default dtype.

    The zeros are added up in the default dtype, parameter after parameter, as YOLOv5 5.x does.
    ZeroDivisionError for a model without parameters.
    """
    elements, zeros = 0.0, 0.0
    for parameter in model.parameters():
        elements += parameter.numel()
        zeros += (parameter == 0).sum()
    return zeros / elements  # type: ignore[return-value]


def prune_layers(model: nn.Module, amount: float) -> None:
    """Zero the `amount` smallest weights of every Conv2d by magnitude, with torch's pruning."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            torch_prune.l1_unstructured(module, name="weight", amount=amount)
            torch_prune.remove(module, "weight")


def fuse_conv_and_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """A new Conv2d that computes bn(conv(x)) of inference: YOLOv5's formula, dilation kept."""
    fused = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        kernel_size=conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=True,
    )
    fused = fused.requires_grad_(False).to(conv.weight.device)
    rows = conv.weight.clone().view(conv.out_channels, -1)
    scale = torch.diag(bn.weight.div(torch.sqrt(bn.eps + bn.running_var)))
    fused.weight.copy_(torch.mm(scale, rows).view(fused.weight.shape))

    if conv.bias is None:
        conv_bias = torch.zeros(conv.weight.size(0), device=conv.weight.device)
    else:
        conv_bias = conv.bias
    shift = bn.bias - bn.weight.mul(bn.running_mean).div(torch.sqrt(bn.running_var + bn.eps))
    fused.bias.copy_(torch.mm(scale, conv_bias.reshape(-1, 1)).reshape(-1) + shift)
    return fused


def scale_img(img: Tensor, ratio: float = 1.0, same_shape: bool = False, gs: int = 32) -> Tensor:
    """(batch, channels, height, width) resized by `ratio`, bilinear, padded to multiples of gs."""
    if ratio == 1.0:
        return img
    height, width = img.shape[2:]
    size = (int(height * ratio), int(width * ratio))
    img = F.interpolate(img, size=size, mode="bilinear", align_corners=False)
    if not same_shape:
        height, width = (math.ceil(x * ratio / gs) * gs for x in (height, width))
    return F.pad(img, [0, width - size[1], 0, height - size[0]], value=0.447)


def time_synchronized() -> float:
    """time.time() once the current CUDA device, if there is one, has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.time()
