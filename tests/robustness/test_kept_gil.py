"""What is called of torch while addresses of tensors are in use keeps the GIL: torch's operations
let go of it, and another thread could replace the memory meanwhile."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from itertools import repeat
from typing import Any

import pytest
import torch
from torch import nn

from yolov5_utils import _C, _native

from ..support import meanwhile

FACTS = _native.TORCH
TENSOR = torch.ones(3)
# As csrc/python calls them; is_neg and detach are operations.
CALLED: dict[str, tuple[Any, Any]] = {
    "to_dlpack": (FACTS.to_dlpack, TENSOR),
    "increment_version": (
        FACTS.increment_version,
        [TENSOR] if FACTS.increments_lists else TENSOR,
    ),
    "untyped_storage": (getattr(FACTS.tensor_base, "untyped_storage", None), TENSOR),
    "current_stream": (FACTS.current_stream, 0),
}


@pytest.fixture
def unwilling() -> None:
    """Threads only change where the one that runs lets go of the GIL."""
    sys.setswitchinterval(100)


def turns_of_others(function: Callable[[Any], Any], argument: Any, times: int = 20_000) -> int:
    """How often another thread gets to run during so many calls, made without Python code."""
    turns, stop = 0, False

    def count() -> None:
        nonlocal turns
        while not stop:
            turns += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    while turns == 0:
        time.sleep(1e-3)
    before = turns
    for _ in map(function, repeat(argument, times)):
        pass
    during = turns - before
    stop = True
    thread.join()
    return during


@pytest.mark.usefixtures("unwilling")
@pytest.mark.parametrize("name", CALLED)
def test_the_gil_is_kept(name: str) -> None:
    function, argument = CALLED[name]
    if function is None or (name == "current_stream" and not torch.cuda.is_available()):
        pytest.skip(f"this torch has no {name} to call here")
    assert turns_of_others(function, argument) == 0


@pytest.mark.usefixtures("unwilling")
def test_letting_go_is_noticed() -> None:
    assert turns_of_others(FACTS.tensor_base.is_neg, TENSOR, 200_000) > 0


def test_buffers_that_others_replace() -> None:
    """Buffers are asked for their sign, an operation of torch's, before addresses are taken."""
    _C.configure(gil_bytes=1 << 40)
    average, source = nn.Module(), nn.Module()
    for module in (average, source):
        for i in range(40):
            module.register_buffer(f"b{i}", torch.ones(4000 if i % 2 else 1))

    def replace() -> None:
        for module in (average, source):
            for buffer in module.buffers():
                buffer.data = torch.ones(buffer.shape)

    sys.setswitchinterval(1e-6)
    with meanwhile(replace):
        end = time.monotonic() + 1
        while time.monotonic() < end:
            _C.ema_update(average, source, 0.5)
