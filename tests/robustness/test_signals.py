"""What a signal handler raises in the middle of a call is never lost: torch's own "DataLoader
worker is killed" is such an exception, of the very type with which torch refuses a tensor.

On both ways to a tensor's memory, at moments drawn at random; each round must see its exception.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from yolov5_utils.ops.prune import prune_layers
from yolov5_utils.torch_utils import (
    ModelEMA,
    fuse_conv_and_bn,
    scale_img,
    sparsity,
    time_synchronized,
)

LATEST_S = 2e-3  # of a round's signal

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")


def calls() -> dict[str, Callable[[], Any]]:
    """The hot paths' public functions, each on something of its own."""
    model = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) for _ in range(20))
    )
    model = model.eval().requires_grad_(False)
    ema, image = ModelEMA(model), torch.rand(1, 3, 64, 64)
    return {
        "ema": lambda: ema.update(model),
        "sparsity": lambda: sparsity(model),
        "prune": lambda: prune_layers(model, 0.5),
        "fuse": lambda: fuse_conv_and_bn(*model[0]),
        "scale_img": lambda: scale_img(image, 0.83),
        "time_synchronized": time_synchronized,
    }


def raised() -> RuntimeError:
    return RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")


@pytest.mark.parametrize("name", calls())
def test_no_exception_is_lost(
    name: str, way_to_memory: str, rounds: Callable[[int], range]
) -> None:
    call = calls()[name]
    for _ in range(3):  # what is tried on first use
        call()
    fired = seen = 0

    def handler(number: int, frame: object) -> None:
        nonlocal fired
        fired += 1
        raise raised()

    def keep_calling(delay: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, delay)
        while fired == seen:
            call()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for number in rounds(60):
            delay = random.Random(number).uniform(1e-5, LATEST_S)
            with pytest.raises(RuntimeError, match="DataLoader worker"):
                keep_calling(delay)
            seen += 1
            assert fired == seen, f"round {number}: an exception was lost"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
