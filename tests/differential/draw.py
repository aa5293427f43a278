"""What a random call is made of: numbers, sizes, tensors in memory of any order. Everything comes
from one number, so that the same call can be had again, and twice for two ways to compute it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OTHERS = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.complex64, torch.complex128),
    *(getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name)),
)
SPECIAL = (0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-40, -1e-45, 65504.0, 6e-8, 3e38)

# Sizes have a heavy tail: ten times as large is a twelfth as frequent, without an end.
TAIL = 1.1
# Tensors of the largest size that one call, its twin and their temporary results may hold.
COPIES = 40


class Draw:
    """One stream of random choices. `memory` bytes are all that bounds a size."""

    def __init__(self, number: int, memory: int) -> None:
        self.random = random.Random(number)
        self.generator = torch.Generator().manual_seed(number & (1 << 63) - 1)
        self.room = max(64, memory // 8 // COPIES)  # elements of the widest type

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def choice(self, options: Sequence[T]) -> T:
        return self.random.choice(options)

    def often(self, usual: T, odd: Sequence[T], share: float = 0.1) -> T:
        """Mostly `usual`."""
        return self.choice(odd) if self.chance(share) else usual

    def size(self, scale: float, room: int | None = None) -> int:
        """From 0 on; of `scale` typically."""
        room = self.room if room is None else room
        while True:
            drawn = scale * ((1 - self.random.random()) ** (-1 / TAIL) - 1)
            if drawn <= room:
                return int(drawn)

    def shape(self, dims: int | None = None, scale: float = 6) -> tuple[int, ...]:
        """A size shared out among dimensions at random; now and then one of them is 0 or 1."""
        count = self.often(self.random.randrange(6), (6, 8, 12, 13, 20)) if dims is None else dims
        elements = 1 + self.size(scale)
        shares = [self.random.random() + 1e-9 for _ in range(count)]
        total = sum(shares)
        sizes = [max(1, round(elements ** (share / total))) for share in shares]
        if sizes and self.chance(0.15):
            sizes[self.random.randrange(count)] = self.often(1, (0,), 0.3)
        return tuple(sizes)

    def values(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Contiguous numbers: of many magnitudes, of few values, or of any bits at all."""
        count = math.prod(shape)
        kind = self.random.random()
        if dtype == torch.bool:
            return torch.randint(0, 2, tuple(shape), generator=self.generator).bool()
        if kind < 0.15 or not (dtype.is_floating_point or dtype.is_complex):
            size = count * torch.empty(0, dtype=dtype).element_size()
            raw = torch.randint(0, 256, (size,), generator=self.generator, dtype=torch.uint8)
            return raw.view(dtype).view(shape)
        numbers = torch.randn(count, generator=self.generator)
        if kind < 0.3:
            numbers = (numbers * 2).round_()
        elif kind < 0.7:
            numbers *= 10.0 ** self.random.uniform(-8, 5)
            for special in self.random.choices(SPECIAL, k=min(count, 3)):
                numbers[self.random.randrange(count)] = special
        return numbers.to(dtype).view(shape)

    def tensor(self, shape: Sequence[int], dtype: torch.dtype, plain: float = 0.6) -> Tensor:
        """Numbers in memory of some order, mostly without gaps; some share memory."""
        shape = tuple(shape)
        if self.chance(plain) or not shape:
            return self.values(shape, dtype)
        kind = self.random.randrange(5)
        if kind == 0:
            order = list(range(len(shape)))
            self.random.shuffle(order)
            tensor = self.values([shape[i] for i in order], dtype)
            return tensor.permute([order.index(i) for i in range(len(shape))])
        if kind == 1:
            order = (0, 3, 1, 2) if len(shape) == 4 else range(len(shape))
            back = (0, 2, 3, 1) if len(shape) == 4 else range(len(shape))
            return self.values([shape[i] for i in back], dtype).permute(*order)
        at = self.random.randrange(len(shape))
        if kind == 2:  # every other one of a dimension, or a part of it
            step, first = self.random.randint(1, 3), self.random.randint(0, 2)
            larger = [*shape[:at], first + shape[at] * step + 1, *shape[at + 1 :]]
            index = (slice(None),) * at + (slice(first, first + shape[at] * step, step),)
            return self.values(larger, dtype)[index]
        if kind == 3:  # one element for a whole dimension
            return self.values([*shape[:at], 1, *shape[at + 1 :]], dtype).expand(shape)
        skipped = self.random.randint(1, 9)  # from an odd place on
        return self.values([math.prod(shape) + skipped], dtype)[skipped:].view(shape)

    def parameter(self, tensor: Tensor) -> torch.nn.Parameter:
        able = tensor.is_floating_point() or tensor.is_complex()
        return torch.nn.Parameter(tensor, requires_grad=able and self.chance(0.5))


def describe(value: Any) -> str:
    """For a report: a tensor by its kind, anything else as it is."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind}{list(value.shape)}, strides {list(value.stride())}"
    return repr(value)
