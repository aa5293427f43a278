"""The EMA in few torch operations, on lists: on GPUs where the CUDA library cannot be used.

The same bits as reference.py, which runs wherever that is not sure. Must not know the C extension.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from operator import itemgetter

import torch
from torch import Tensor, nn

from .. import probe, reference, whole

Pair = tuple[Tensor, Tensor]

# Products of one turn: the memory needed beside the models.
_TURN_BYTES = 64 << 20


def update(
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
