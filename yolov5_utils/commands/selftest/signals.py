"""What a signal handler raises arrives, whatever function was running."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable
from typing import Any

import torch

from ... import torch_utils
from .drawn import layers

_ALARMS = 20  # per function


class _Alarm(Exception):
    """What the signal handler of the check raises."""


def check_signals() -> str:
    """What a signal handler raises arrives, whatever function was running."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        return "not tried: no alarm in this thread or on this system"
    conv, bn = layers(12, torch.float32)
    moving, image = torch_utils.ModelEMA(conv), torch.ones(1, 3, 64, 64)
    functions: dict[str, Callable[[], Any]] = {
        "ema": lambda: moving.update(conv),
        "fuse": lambda: torch_utils.fuse_conv_and_bn(conv, bn),
        "sparsity": lambda: torch_utils.sparsity(conv),
        "scale_img": lambda: torch_utils.scale_img(image, 0.83),
        "time_synchronized": torch_utils.time_synchronized,
    }
    draw = random.Random(16)
    for name, function in functions.items():
        function()  # what is found out at the first call is no part of this
        for _ in range(_ALARMS):
            _wait_for_alarm(name, function, draw.uniform(1e-4, 2e-3))
    return f"{_ALARMS} alarms in each of {len(functions)} functions arrived"


def _wait_for_alarm(name: str, function: Callable[[], Any], seconds: float) -> None:
    rang = False

    def ring(*_: Any) -> None:
        nonlocal rang
        rang = True
        raise _Alarm

    def until_it_rings() -> None:
        while not rang:
            function()

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        until_it_rings()
    except _Alarm:
        return
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    raise AssertionError(f"{name}: the exception of a signal handler was lost")
