"""What surrounds a random call: settings that stay for a block of calls, and modes around one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from yolov5_utils import _C, _native

from ..support import Watch
from .draw import Draw

BLOCK = 64  # calls


class Settings:
    """Level, threads, thresholds and the way to memory, changed where a block begins."""

    def __init__(self) -> None:
        self.block: int | None = None
        self.text = ""
        self.before = _C.configure()
        self.threads = torch.get_num_threads()

    def enter(self, number: int) -> None:
        if number // BLOCK == self.block:
            return
        self.block = number // BLOCK
        draw = Draw(~self.block, 0)
        level = draw.choice(_C.info()["levels_found"])
        threads = draw.choice((1, 1, 1, 2, 2, 3, 5))
        pooled, exchange = draw.chance(0.25), draw.chance(0.7)
        torch.set_num_threads(threads)
        _C.register_torch(_native.TorchFacts(use_exchange=exchange))
        limits = dict.fromkeys(("parallel_bytes", "gil_bytes"), 0) if pooled else {}
        _C.configure(**{**self.before, **limits, "level": level})
        self.text = (
            f"level {level}, {threads} threads, pool for {'all' if pooled else 'large'} calls"
        )
        self.text += f", {'exchange table' if exchange else 'capsules'}"

    def leave(self) -> None:
        torch.set_num_threads(self.threads)
        _C.register_torch(_native.TorchFacts())
        _C.configure(**self.before)


@contextlib.contextmanager
def _switched(switch: Callable[[Any], Any], on: Any, off: Any) -> Iterator[None]:
    switch(on)
    try:
        yield
    finally:
        switch(off)


@contextlib.contextmanager
def _flushing() -> Iterator[None]:
    torch.ones(1 << 17).add_(1)  # threads of the pool are not to be born flushing
    with _switched(torch.set_flush_denormal, True, False):
        yield


Mode = Callable[[], contextlib.AbstractContextManager[Any]]
GRADIENT: dict[str, Mode] = {
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference_mode": torch.inference_mode,
}
ODD: dict[str, Mode] = {
    "float64": lambda: _switched(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: _switched(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": lambda: _switched(torch.use_deterministic_algorithms, True, False),
    "function_mode": Watch,
    "flush_denormal": _flushing,
}


@contextlib.contextmanager
def modes(names: list[str]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context({**GRADIENT, **ODD}[name]())
        yield


def draw_modes(draw: Draw) -> list[str]:
    names = [draw.choice(("no_grad", "no_grad", "enable_grad", "enable_grad", "inference_mode"))]
    return names + ([draw.choice(tuple(ODD))] if draw.chance(0.12) else [])
