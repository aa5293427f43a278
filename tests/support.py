"""What tests of several hot paths share: numbers of all kinds, modules that hold tensors, the loop
of the original EMA, and a comparison of bits that is not the package's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DECAY = 0.9987
SPECIAL = (0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 1e-45, 3e38, -3e38, float("inf"), float("-inf"))
INTEGER_VIEW = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Holder(nn.Module):
    """A module whose state is the given buffers, in order."""

    def __init__(self, *buffers: Tensor) -> None:
        super().__init__()
        for i, buffer in enumerate(buffers):
            self._buffers[f"b{i}"] = buffer  # whatever it is


def original(average: nn.Module, source: nn.Module, decay: Any) -> None:
    """The loop the package replaces."""
    with torch.no_grad():
        state = source.state_dict()
        for key, value in average.state_dict().items():
            if value.dtype.is_floating_point:
                value *= decay
                value += (1 - decay) * state[key].detach()


def values(count: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Random values over many binades, with the special ones strewn in."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(count, generator=generator, dtype=torch.float64)
    base *= torch.exp2(torch.randint(-20, 8, (count,), generator=generator).double())
    if count:
        where = torch.randint(0, count, (max(1, count // 7),), generator=generator)
        pick = torch.randint(0, len(SPECIAL), (len(where),), generator=generator)
        base[where] = torch.tensor(SPECIAL, dtype=torch.float64)[pick]
    return base.to(dtype)


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    """Equal bits; a NaN equals every NaN, since its payload is nobody's promise."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    integer = INTEGER_VIEW[actual.element_size()]
    same = actual.contiguous().view(integer) == expected.contiguous().view(integer)
    same |= actual.isnan() & expected.isnan()
    if not same.all():
        first = int((~same).flatten().nonzero()[0])
        got, want = actual.flatten()[first], expected.flatten()[first]
        raise AssertionError(f"element {first}: got {got!r}, expected {want!r}")
