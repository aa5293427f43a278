"""The hot paths as plain torch operations: the way out, the oracle of tests and demo.

Each function performs the same tensor operations, in the same order and with the same roundings, as
YOLOv5 of July 2021. Must not know the C extension.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from itertools import repeat
from operator import iadd, imul, mul

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import probe, whole

USUAL_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def ema_update(
    average: nn.Module, source: nn.Module, decay: float, done: list[bool] | None = None
) -> None:
    """average = decay · average + (1 − decay) · source over the floating entries of state_dict.

    KeyError for an entry that `source` lacks, RuntimeError for a shape that does not broadcast;
    nothing has changed then, and `done` is still empty.
    """
    with torch.no_grad():
        update_pairs(floating_pairs(average, source), decay, done)


def floating_pairs(average: nn.Module, source: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The floating entries of average.state_dict(), each with source's entry of that key."""
    entries = average.state_dict().items()
    floating = [(key, value) for key, value in entries if value.dtype.is_floating_point]
    state = source.state_dict()
    return [(value, state[key].detach()) for key, value in floating]


def update_pairs(
    pairs: list[tuple[Tensor, Tensor]], decay: float, done: list[bool] | None = None
) -> None:
    """The arithmetic, pair after pair; undone where one of them raises, else `done` gets a True."""
    done = [] if done is None else done
    risky = [i for i, (value, new) in enumerate(pairs) if may_fail(value, new, decay)]
    first_safe = risky[-1] + 1 if risky else 0
    written: list[tuple[Tensor, Tensor]] = []  # with its value before, up to the last risky pair
    values, news = ([pair[i] for pair in pairs[first_safe:]] for i in (0, 1))
    try:
        for value, new in pairs[:first_safe]:
            undo, product = (value, value.clone()), list[Tensor]()
            multiplied = map(product.append, map(imul, (value,), (decay,)))
            whole.run(multiplied, map(written.append, (undo,)))
            # Which is another tensor where the decay multiplies on its own, as NumPy's arrays do.
            iadd(product.pop(), (1 - decay) * new)
        # A pair at a time, as above: value *= decay; value += (1 - decay) * new.
        kept = map(imul, values, repeat(decay))
        added = map(mul, repeat(1 - decay), news) if values else ()
        whole.run(map(iadd, kept, added), map(done.append, (True,)))
    except BaseException:
        if not done:
            for value, before in reversed(written):
                value.copy_(before)
        raise


def may_fail(value: Tensor, new: Tensor, decay: float) -> bool:
    """False for pairs of which torch is sure to update all: the usual ones."""
    return (
        not isinstance(decay, (int, float))
        or any(
            tensor.layout is not torch.strided
            or tensor.is_nested
            or tensor.dtype not in USUAL_DTYPES
            or tensor.device.type not in ("cpu", "cuda")
            or tensor._is_zerotensor()
            for tensor in (value, new)
        )
        or value.device != new.device
        or value.shape != new.shape
        or 0 in value.stride()
        or probe.in_transform()
    )


def sparsity(model: nn.Module) -> Tensor:
    """Zeros over elements of all parameters: a 0-d tensor in the default dtype.

    The zeros are added up in the default dtype, parameter after parameter, as YOLOv5 5.x does.
    ZeroDivisionError for a model without parameters.
    """
    return share_of_zeros(model.parameters())


def share_of_zeros(parameters: Iterable[Tensor]) -> Tensor:
    """Of all these tensors, which are gone through once."""
    elements, zeros = 0.0, 0.0
    for parameter in parameters:
        elements += parameter.numel()
        zeros += (parameter == 0).sum()
    return zeros / elements  # type: ignore[return-value]


def prune_layers(
    model: nn.Module, amount: float, before: Callable[[nn.Conv2d], None] = lambda module: None
) -> None:
    """Zero the `amount` smallest weights of every Conv2d by magnitude, with torch's pruning.

    `before` is told of each that is about to change.
    """
    from torch.nn.utils import prune as torch_prune  # the client imports it no earlier either

    for _, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            before(module)
            torch_prune.l1_unstructured(module, name="weight", amount=amount)
            torch_prune.remove(module, "weight")


def fuse_conv_and_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """A new Conv2d that computes bn(conv(x)) of inference: YOLOv5's formula.

    Where the original raises or loses something it goes on: dilation and padding_mode are kept, a
    missing bias has the weight's dtype, the weight may lie in memory in any order.
    """
    fused = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        kernel_size=conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=True,
        padding_mode=padding_mode(conv),
    )
    keep_padding(fused, conv)
    fused = fused.requires_grad_(False).to(conv.weight.device)
    rows = conv.weight.clone().reshape(conv.out_channels, -1)
    scale = torch.diag(bn.weight.div(torch.sqrt(bn.eps + bn.running_var)))
    fused.weight.copy_(torch.mm(scale, rows).view(fused.weight.shape))

    none = conv.bias is None
    conv_bias = conv.weight.new_zeros(conv.weight.size(0)) if none else conv.bias
    shift = bn.bias - bn.weight.mul(bn.running_mean).div(torch.sqrt(bn.running_var + bn.eps))
    fused.bias.copy_(torch.mm(scale, conv_bias.reshape(-1, 1)).reshape(-1) + shift)
    return fused


def padding_mode(conv: nn.Conv2d) -> str:
    """conv.padding_mode, also of what has none."""
    return getattr(conv, "padding_mode", "zeros")


def keep_padding(fused: nn.Conv2d, conv: nn.Conv2d) -> None:
    """Give `fused` the amounts by which `conv` pads in modes other than zeros.

    There nn.Conv2d looks at those of its constructor, whatever `padding` was set to since.
    """
    if fused.padding_mode != "zeros":
        amounts = conv._reversed_padding_repeated_twice
        fused._reversed_padding_repeated_twice = type(amounts)(amounts)


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
