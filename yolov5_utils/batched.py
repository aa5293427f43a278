"""Hot paths in few torch operations: for GPU tensors where the CUDA library cannot be used.

The same bits as reference.py, which runs wherever that is not sure. Must not know the C extension.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from . import probe, reference, whole

Pair = tuple[Tensor, Tensor]

# Products of one turn: what the way needs beside the models.
_TURN_BYTES = 64 << 20


def ema_update(
    average: nn.Module, source: nn.Module, decay: float, done: list[bool] | None = None
) -> None:
    """reference.ema_update; for pairs on GPUs two products and a sum per list of tensors."""
    with torch.no_grad():
        pairs = reference.floating_pairs(average, source)
        if all(value.is_cuda for value, _ in pairs) and are_independent(pairs, decay):
            update_pairs(pairs, decay, done)
        else:
            reference.update_pairs(pairs, decay, done)


def are_independent(pairs: list[Pair], decay: float) -> bool:
    """True where the pairs may be updated in any order, and torch is sure to update them all."""
    return (
        hasattr(torch, "_foreach_copy_")  # torch 2.1 and later
        and not probe.is_watched()
        and all(type(tensor) is Tensor for pair in pairs for tensor in pair)
        and _fits_float32(decay)
        and not any(reference.may_fail(value, new, decay) for value, new in pairs)
        and not _overlap(pairs)
    )


def _fits_float32(decay: float) -> bool:
    """False for scalars that torch's operations on lists refuse and those on tensors round."""
    if not isinstance(decay, (int, float)):
        return False
    return all(
        not math.isfinite(scalar) or abs(scalar) <= torch.finfo(torch.float32).max
        for scalar in (decay, 1 - decay)
    )


def _overlap(pairs: list[Pair]) -> bool:
    """True where memory that is written is also read for, or written as, another tensor."""
    spans = [
        (*_span(tensor), written)
        for pair in pairs
        for tensor, written in zip(pair, (True, False), strict=True)
        if tensor.numel()
    ]
    read_end = written_end = 0
    for begin, end, written in sorted(spans):
        if begin < (max(read_end, written_end) if written else written_end):
            return True
        if written:
            written_end = max(written_end, end)
        else:
            read_end = max(read_end, end)
    return False


def _span(tensor: Tensor) -> tuple[int, int]:
    """The half-open range of addresses that the elements touch."""
    begin = tensor.data_ptr()
    last = sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return begin, begin + (last + 1) * tensor.element_size()


def update_pairs(pairs: Iterable[Pair], decay: float, done: list[bool] | None = None) -> None:
    """value = decay · value + (1 − decay) · new for independent pairs: reference.update_pairs."""
    done = [] if done is None else done
    turns = [tuple(map(list, zip(*group, strict=True))) for group in _turns(pairs)]
    steps = [_average(values, news, decay) for values, news in turns]
    whole.run(*steps, map(done.append, (True,)))


def _average(values: list[Tensor], news: list[Tensor], decay: float) -> Iterator[object]:
    """One turn, taken when iterated over; the products are first, for which memory may lack."""
    products = map(torch._foreach_mul, (news,), (1 - decay,))
    if values[0].dtype.itemsize > 2:
        kept = map(torch._foreach_mul_, (values,), (decay,))
        added = map(itemgetter(0), zip(products, kept, strict=True))
        return map(torch._foreach_add_, (values,), added)
    # In place, some of torch's kernels round the scalar to 16 bits.
    parts = map(torch._foreach_mul, (values,), (decay,))
    return map(torch._foreach_copy_, (values,), map(torch._foreach_add, parts, products))


def _turns(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Lists of pairs that share devices and dtypes, as torch's quick operations need them."""
    groups: dict[object, list[Pair]] = {}
    for value, new in pairs:
        groups.setdefault((value.device, value.dtype, new.dtype), []).append((value, new))
    for group in groups.values():
        turn: list[Pair] = []
        total = 0
        for value, new in group:
            turn.append((value, new))
            total += new.numel() * new.element_size()
            if total >= _TURN_BYTES:
                yield turn
                turn, total = [], 0
        if turn:
            yield turn


def sparsity(model: nn.Module) -> Tensor:
    """reference.sparsity; for parameters on one GPU a count per list of tensors."""
    parameters = list(model.parameters())
    devices = {parameter.device for parameter in parameters}
    if len(devices) == 1 and devices.pop().type == "cuda" and is_exact(parameters):
        return count_share(parameters)
    return reference.share_of_zeros(parameters)


def is_exact(parameters: list[nn.Parameter]) -> bool:
    """True where no sum of zeros is rounded, so that the order of adding does not show."""
    exact = {torch.float32: 1 << 24, torch.float64: 1 << 53}.get(torch.get_default_dtype(), 0)
    return (
        not probe.is_watched()
        and all(
            type(p) is nn.Parameter
            and p.layout is torch.strided
            and p.dtype in reference.USUAL_DTYPES
            for p in parameters
        )
        and sum(parameter.numel() for parameter in parameters) <= exact
    )


def count_share(parameters: list[nn.Parameter]) -> Tensor:
    """Zeros over elements of parameters on one device, in the default dtype."""
    elements, zeros = 0.0, None
    for turn in _turns((parameter.detach(), parameter.detach()) for parameter in parameters):
        flat = torch.cat([tensor.reshape(-1) for tensor, _ in turn])
        elements += flat.numel()
        found = flat.numel() - torch.count_nonzero(flat)
        zeros = found if zeros is None else zeros + found
    assert zeros is not None
    return zeros.to(torch.get_default_dtype()) / elements


def fuse_pairs(pairs: list[tuple[Any, ...]], doubtful: Tensor) -> bool:
    """Fuse what ops/fuse_gpu.py lists, element by element: reference.fuse_conv_and_bn.

    doubtful[i] becomes 1 where that may differ from the reference. False, with nothing written, for
    shapes that do not fit.
    """
    if any(pair[0].dim() != 4 or pair[0].shape != pair[6].shape for pair in pairs):
        return False
    with torch.no_grad():
        flags = [_fuse(*pair) for pair in pairs]
        doubtful.copy_(torch.stack(flags))
    return True


def _fuse(
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    fused_weight: Tensor,
    fused_bias: Tensor,
    eps: float,
) -> Tensor:
    """One pair; True where the reference has to fuse it."""
    root = torch.sqrt(eps + variance)
    scale = gamma.div(root)
    rows = scale.view(-1, 1, 1, 1)
    conv_bias = torch.zeros_like(gamma) if bias is None else bias
    products, moved = rows * weight, scale * conv_bias
    # The matrix product of the original adds zeros, which turns −0 into 0.
    fused_weight.copy_(products + 0.0)
    fused_bias.copy_((moved + 0.0) + (beta - gamma.mul(mean).div(root)))
    return _doubtful(weight, rows, products) | _doubtful(conv_bias, scale, moved)


def _doubtful(factor: Tensor, scale: Tensor, products: Tensor) -> Tensor:
    """True where the sum of a matrix product may end in other bits than the product alone.

    An infinity or NaN spreads over its column, and what vanishes inside a sum keeps its sign.
    """
    vanished = (products == 0) & (factor != 0) & (scale != 0)
    return (factor.isfinite().logical_not() | vanished).any()
