"""One random call beside its twin: how both end, what they return, and what they leave behind."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .cases import CASES, Case
from .draw import Draw, describe
from .surroundings import Settings, draw_modes, modes

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


_NO_MEMORY = "allocate memory"  # torch's allocator; what the other way needs is another affair


class Different(AssertionError):
    """The package and the reference do not end alike."""


class End(NamedTuple):
    error: type[BaseException] | None
    result: Any
    text: str  # of the error


def end_of(function: Callable[[], Any]) -> End:
    try:
        return End(None, function(), "")
    except Exception as error:
        return End(type(error), None, str(error))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal bits, a NaN being equal to every NaN."""
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    a, b = a.contiguous(), b.contiguous()
    integer = _INTEGERS[a.element_size()]
    if torch.equal(a.view(integer), b.view(integer)):
        return True
    different = a.view(integer) != b.view(integer)
    if a.is_floating_point():
        wide = torch.float32 if a.element_size() == 1 else a.dtype
        different &= ~(a.to(wide).isnan() & b.to(wide).isnan())
    return not different.any()


def same_tensor(a: Tensor, b: Tensor) -> bool:
    """Alike in everything that shows: type, shape, order in memory, gradient, bits."""
    for what in ("dtype", "shape", "layout", "device", "requires_grad"):
        if getattr(a, what) != getattr(b, what):
            return False
    strides = zip(a.shape, a.stride(), b.stride(), strict=True)
    if a.numel() and any(size > 1 and ours != theirs for size, ours, theirs in strides):
        return False
    with torch.inference_mode():
        return same_bits(a.detach(), b.detach())


def tensors_of(value: Any) -> Iterator[tuple[str, Any]]:
    """What is compared of an argument or a result, by name and in order."""
    if not isinstance(value, nn.Module):
        yield "", value
        return
    for prefix, module in value.named_modules(remove_duplicate=False):
        for kind in ("_parameters", "_buffers"):
            for name, tensor in module.__dict__[kind].items():
                yield f"{prefix}.{name}", tensor
        for name in ("training", "kernel_size", "padding", "padding_mode", "dilation", "groups"):
            yield f"{prefix}.{name}", getattr(module, name, None)


def compare(what: str, ours: Any, theirs: Any) -> None:
    found, expected = list(tensors_of(ours)), list(tensors_of(theirs))
    if [name for name, _ in found] != [name for name, _ in expected]:
        raise Different(f"{what}: other names: {found} and {expected}")
    for (name, a), (_, b) in zip(found, expected, strict=True):
        tensors = isinstance(a, Tensor) and isinstance(b, Tensor)
        alike = same_tensor(a, b) if tensors else type(a) is type(b) and a == b
        if not alike:
            raise Different(f"{what}{name}: {describe(a)}, the reference {describe(b)}")


def check(number: int, memory: int, settings: Settings, only: str | None = None) -> str:
    """Makes the call of this number in both ways, and says which operation it was of."""
    settings.enter(number)
    first = Draw(number, memory)
    weights = [weight for _, weight in CASES.values()]
    name = only or first.random.choices(tuple(CASES), weights)[0]
    around = draw_modes(first)
    inside = first.chance(0.5)  # whether tensors are made in the mode, too

    def world() -> Case:
        draw = Draw(number, memory)
        draw.random = random.Random(f"{number} {name}")
        with modes(around if inside else []):
            return CASES[name][0](draw)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = world(), world()
        ends = []
        for function in (ours.ours, theirs.theirs):
            torch.default_generator.manual_seed(number & 0xFFFF)  # of the CPU only
            with modes(around):
                ends.append(end_of(function))
        try:
            compare_ends(ends[0], ends[1], ours, theirs, world)
        except Different as different:
            raise Different(f"{name}, {', '.join(around)}, {settings.text}: {different}") from None
    return name


def compare_ends(
    found: End, expected: End, ours: Case, theirs: Case, world: Callable[[], Case]
) -> None:
    if any(end.error is MemoryError or _NO_MEMORY in end.text for end in (found, expected)):
        return
    if found.error is not expected.error:
        told = [end.text or describe(end.result) for end in (found, expected)]
        kinds = [end.error and end.error.__name__ for end in (found, expected)]
        raise Different(f"{kinds[0]} ({told[0]}), the reference {kinds[1]} ({told[1]})")
    if found.error is not None:
        theirs = world()  # an error leaves everything as it was
    else:
        compare("the result", found.result, expected.result)
    for i, (a, b) in enumerate(zip(ours.given, theirs.given, strict=True)):
        compare(f"argument {i}", a, b)
