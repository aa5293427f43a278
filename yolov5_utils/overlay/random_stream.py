"""torch's random stream under the overlay: where the original's new convolution leaves it.

The convolution that the original constructs draws a weight and a bias, which are then overwritten.
Ours draws nothing, so the generator is moved on by as many numbers, which C does without making
them. Imported once torch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .. import _native, probe

# Numbers to draw on trial: at the ends of vectors and blocks, and more than torch gives one thread.
_TRIED = (1, 15, 16, 17, 623, 624, 625, 5000, 40_000)

_default_device: Callable[[], str] = probe.find("_C._get_default_device") or (lambda: "cpu")


def refusal() -> str | None:
    """Why a new convolution may not draw from the CPU's generator as torch's own does, or None."""
    if probe.is_compiling():
        return None  # nothing is run, and nothing drawn
    if _default_device() != "cpu":
        return "the default device is not the CPU"
    return None


def follow(fused: nn.Conv2d) -> None:
    """Leave torch's generator as constructing this convolution does: after C made it."""
    _calibration.follow(fused)


class Calibration:
    """Whether C moves the generator as the installed torch's draws do: tried when first needed."""

    def __init__(self) -> None:
        self._agrees: bool | None = None

    def follow(self, fused: nn.Conv2d) -> None:
        """Move the stream on: by counting, or where that was not yet tried or failed by drawing."""
        draws = fused.weight.numel() + fused.out_channels  # C makes none without weights
        if self._agrees is None:
            numbers_agree = _agree_on_numbers()
            self._agrees = _agree_on_convolution(fused, draws) and numbers_agree
        elif not self._agrees or not _skip(torch.default_generator, draws):
            _construct(fused)


def _skip(generator: Any, draws: int) -> bool:
    """Let C move the generator on; False, with nothing changed, where its state is not known."""
    try:
        _native._C.skip_random(generator, draws)
    except _native.Unsupported:
        return False
    return True


def _construct(fused: nn.Conv2d) -> None:
    """Draw as the original does."""
    kernel_size: Any = fused.kernel_size
    nn.Conv2d(fused.in_channels, fused.out_channels, kernel_size, groups=fused.groups)


def _agree_on_numbers() -> bool:
    """Whether C and torch leave generators of their own in the same state."""
    ours, theirs = torch.Generator(), torch.Generator()
    theirs.manual_seed(0)
    torch.randn(1, generator=theirs, dtype=torch.float32, device="cpu")  # and keeps a second number
    for count in _TRIED:
        ours.set_state(theirs.get_state())
        numbers = torch.empty(count, dtype=torch.float32, device="cpu")
        numbers.uniform_(generator=theirs)
        if not _skip(ours, count) or not torch.equal(ours.get_state(), theirs.get_state()):
            return False
    return True


def _agree_on_convolution(fused: nn.Conv2d, draws: int) -> bool:
    """Draw as the original does; whether C would have left the generator in the same state."""
    ours = torch.Generator()
    ours.set_state(torch.default_generator.get_state())
    _construct(fused)
    state = torch.default_generator.get_state()
    return _skip(ours, draws) and torch.equal(ours.get_state(), state)


_calibration = Calibration()
