"""What the self-test calls hot paths with: numbers of all kinds, models, layers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

SIZES = range(98)  # below, at and above every vector width and unrolled step of the kernels
_SPECIALS = (0.0, -0.0, 1.0, float("inf"), float("-inf"), float("nan"), 1e-40, -1e-45, 65504.0)
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Bag(nn.Module):
    """A module that holds tensors, as buffers (all dtypes) or parameters, and computes nothing."""

    def __init__(self, tensors: list[Tensor], parameters: bool = False) -> None:
        super().__init__()
        for number, tensor in enumerate(tensors):
            if parameters:
                parameter = nn.Parameter(tensor, requires_grad=False)
                self.register_parameter(f"tensor{number}", parameter)
            else:
                self.register_buffer(f"tensor{number}", tensor)


def values(size: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Random numbers of many magnitudes with zeros and special values, in an unaligned place."""
    exponents = torch.randint(-12, 5, (size + 1,), generator=generator)
    values = torch.randn(size + 1, generator=generator) * 10.0**exponents
    marks = torch.randint(0, 3 * len(_SPECIALS), (size + 1,), generator=generator)
    for mark, special in enumerate(_SPECIALS):
        values[marks == mark] = special
    if not dtype.is_floating_point:
        values = values.nan_to_num(0, 0, 0).clamp(0, 100)
    return values.to(dtype)[1:]


def models() -> Iterator[nn.Module]:
    """Small random models."""
    for seed in range(8):
        torch.manual_seed(seed)
        channels = 3 + 5 * seed
        first = nn.Conv2d(3, channels, 3, bias=bool(seed % 2))
        model = nn.Sequential(
            first,
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, 7, 1).to(memory_format=torch.channels_last),
            nn.ConvTranspose2d(7, channels, 2),
            first if seed % 3 == 0 else nn.Identity(),  # tied: averaged twice, counted once
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter[torch.rand_like(parameter) < 0.2] = 0.0
        yield model


def layers(seed: int, dtype: torch.dtype) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution and its batch norm that want no gradient."""
    torch.manual_seed(seed)
    groups = 1 + seed % 2
    inputs, outputs = groups * (1 + seed % 7), groups * (1 + 5 * seed)
    conv = nn.Conv2d(inputs, outputs, 1 + seed % 4, groups=groups, bias=seed % 3 > 0)
    bn = nn.BatchNorm2d(outputs)
    with torch.no_grad():
        conv.weight.copy_(conv.weight + 0.01 * conv.weight.sign())  # no product vanishes
        bn.weight.uniform_(0.5, 2)
        bn.running_mean.normal_()  # type: ignore[union-attr]
        bn.running_var.uniform_(0.2, 2)  # type: ignore[union-attr]
    return conv.to(dtype).requires_grad_(False), bn.to(dtype).requires_grad_(False)
