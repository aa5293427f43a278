"""Nothing is kept by calls for a GPU, in its stand-in: references and memory, on success and on the
ways out that only such calls have."""

from __future__ import annotations

import contextlib
import gc
import sys
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from yolov5_utils import _C

from .stand_in import Facts
from .test_loader import FAILED, NO_KERNEL, NOT_NOW, Faked, model, pair_to_fuse

Made = tuple[Callable[[], object], list[Any]]


def ema() -> Made:
    average, source = model(), model(1)
    tensors = [*average.state_dict(keep_vars=True).values(), *source.parameters()]
    return lambda: _C.ema_update(average, source, 0.5), [average, source, *tensors]


def zeros() -> Made:
    counted = model()
    return lambda: _C.count_module_zeros(counted, 1), [counted, *counted.parameters()]


def sums() -> Made:
    numbers, total = torch.ones(3, dtype=torch.int64), torch.ones(())
    return lambda: _C.sum_zeros(numbers, total), [numbers, total]


def prune() -> Made:
    weights = [torch.ones(2, 2, 1, 1), torch.ones(3, 3, 1, 1)]
    results, counts = [torch.empty_like(weight) for weight in weights], [1, 9]
    return lambda: _C.prune(weights, results, counts), [*weights, *results, weights, counts]


def fuse() -> Made:
    pair, flags = pair_to_fuse(), torch.zeros(1, dtype=torch.int32)
    pairs = [pair]
    return lambda: _C.fuse_on_gpu(pairs, flags), [*pair, pair, pairs, flags]


def image() -> Made:
    given, output = torch.ones(1, 1, 4, 4), torch.empty(1, 1, 4, 4)
    return lambda: _C.scale_img(given, output, (2, 2), 9), [given, output]


CALLS = {f.__name__: f for f in (ema, zeros, sums, prune, fuse, image)}
LIBRARIES = {
    "good": [],
    "failing": [f"FAKE_STATUS={FAILED}"],
    "full": [f"FAKE_STATUS={NOT_NOW}"],
    "no kernel": [f"FAKE_CHECK_STATUS={NO_KERNEL}"],
    "never ready": [f"FAKE_CHECK_STATUS={NOT_NOW}"],
    "moving": ["FAKE_MOVING"],
    "without memory": ["FAKE_WITHOUT_MEMORY"],
}


def prepare(library: str, stand_in: Any, objects: list[Any]) -> None:
    """What torch's allocator does in this case."""
    first = next((x for x in objects if type(x) in (torch.Tensor, nn.Parameter)), None)

    def allocate(size: int, device: int) -> torch.Tensor:
        if library == "without memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if library == "moving":
            stand_in.move(first, device_type=1, index=0)
        return Facts.memory(size, device)

    _C.register_torch(Facts(allocate))


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_kept(faked: Faked, name: str, library: str) -> None:
    stand_in, _ = faked(*LIBRARIES[library])
    call, objects = CALLS[name]()
    prepare(library, stand_in, objects)

    def many(count: int) -> None:
        for _ in range(count):
            with contextlib.suppress(_C.Unsupported, MemoryError, RuntimeError):
                call()
            stand_in.move()
        gc.collect()

    many(20)
    references = [sys.getrefcount(x) for x in objects]
    tracemalloc.start()
    try:
        many(10)
        sizes = [tracemalloc.get_traced_memory()[0]]
        for _ in range(3):
            many(100)
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert [sys.getrefcount(x) for x in objects] == references
    # The least of three: what a call keeps grows in each, what another thread allocates does not.
    grown = min(after - before for before, after in pairwise(sizes))
    assert grown < 100 * 16, f"{grown} bytes more after 100 calls"
