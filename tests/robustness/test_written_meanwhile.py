"""Another thread writes to the tensors, with torch's operations, which hold no GIL, while each hot
path works on them, or gives them other memory: any mixture of old and new may come out, but no
crash, and nothing beside the tensors is written."""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO

import pytest
import torch
from torch import Tensor, nn

from yolov5_utils import _C, _native, operation
from yolov5_utils.torch_utils import ModelEMA, fuse_conv_and_bn, prune, scale_img, sparsity

from ..support import FLOATING, meanwhile
from .outcomes import in_child

SECONDS = 0.25 * int(os.environ.get("YOLOV5_UTILS_TEST_ROUNDS", "1"))
GUARD = 7.0
SPACE = 1024  # elements of a guard on either side
M_MMAP_THRESHOLD = -3  # of malloc.h: what is as large is unmapped when it is freed
NARROW = FLOATING if _native.TorchFacts().half_scalars_stay_float32 else FLOATING[:2]


class Guarded:
    """Tensors with memory on both sides that must stay as it is."""

    def __init__(self) -> None:
        self.memory: list[Tensor] = []
        self.tensors: list[Tensor] = []  # of this memory, as long as there is the list of it
        self.given: list[Tensor] = []  # to the calls: these, or parameters of the same memory

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        numel = torch.Size(shape).numel()
        memory = torch.full((numel + 2 * SPACE,), GUARD, dtype=dtype)
        self.memory.append(memory)
        self.tensors.append(memory[SPACE:-SPACE].view(shape).fill_(1.0))
        self.given.append(self.tensors[-1])
        return self.given[-1]

    def parameter(self, *shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
        self.given[-1] = nn.Parameter(self.tensor(*shape, dtype=dtype), requires_grad=False)
        return self.given[-1]

    def check(self) -> None:
        for memory in self.memory:
            assert (memory[:SPACE] == GUARD).all(), "written in front of a tensor"
            assert (memory[-SPACE:] == GUARD).all(), "written behind a tensor"


def writer_of(tensors: list[Tensor], seed: int) -> Callable[[], object]:
    """What writes to a drawn one of the tensors in a drawn way."""
    draw = random.Random(seed)
    ways: tuple[Callable[[Tensor], object], ...] = (
        lambda t: t.fill_(1.0),
        lambda t: t.uniform_(2, 3),
        lambda t: t.zero_(),
        lambda t: t.fill_(float("nan")),
    )
    return lambda: draw.choice(ways)(draw.choice(tensors))


def convolution(guarded: Guarded, dtype: torch.dtype, width: int = 128) -> nn.Conv2d:
    conv = nn.Conv2d(width, width, 3, bias=False, dtype=dtype)
    conv.weight = guarded.parameter(width, width, 3, 3, dtype=dtype)
    return conv


def prune_in_place(guarded: Guarded, dtype: torch.dtype) -> Callable[[], object]:
    """Into memory of ours, with guards of its own."""
    weight = guarded.tensor(1 << 17, dtype=dtype)
    memory = weight.view(-1)
    results = Guarded()
    pruned = results.tensor(1 << 17, dtype=dtype)
    draw = itertools.cycle((False, True))

    def call() -> None:
        memory.fill_(1.0)
        _C.prune([weight], [pruned], [(1 << 17) - 1000], next(draw))
        results.check()

    return call


def prune_a_model(guarded: Guarded, dtype: torch.dtype) -> Callable[[], object]:
    conv = convolution(guarded, dtype)
    weight = conv.weight.data

    def call() -> None:
        conv.weight.data = weight
        with redirect_stdout(StringIO()):
            prune(conv, 0.9)

    return call


def update(guarded: Guarded, dtype: torch.dtype) -> Callable[[], object]:
    average, source = nn.Module(), nn.Module()
    for name, shape in (("long", (70_001,)), ("short", (17,)), ("gapless", (64, 33, 3, 3))):
        average.register_buffer(name, guarded.tensor(*shape, dtype=dtype))
        source.register_buffer(name, guarded.tensor(*shape, dtype=dtype))
    ema = ModelEMA(nn.Identity())
    ema.ema = average
    return lambda: ema.update(source)


def count(guarded: Guarded, dtype: torch.dtype) -> Callable[[], object]:
    conv = convolution(guarded, dtype)

    def call() -> None:
        assert 0 <= sparsity(conv) <= 1

    return call


def fuse(guarded: Guarded, dtype: torch.dtype) -> Callable[[], object]:
    conv = convolution(guarded, dtype, 64)
    bn = nn.BatchNorm2d(64, dtype=dtype)
    bn.weight, bn.bias = guarded.parameter(64, dtype=dtype), guarded.parameter(64, dtype=dtype)
    bn.running_mean, bn.running_var = (guarded.tensor(64, dtype=dtype) for _ in range(2))
    return lambda: fuse_conv_and_bn(conv, bn)


def scale(guarded: Guarded, dtype: torch.dtype) -> Callable[[], object]:
    image = guarded.tensor(2, 3, 96, 131, dtype=dtype)
    ratios = itertools.cycle((0.67, 1.3))
    return lambda: scale_img(image, next(ratios))


CALLS = {
    "prune": (prune_in_place, FLOATING),
    "prune_model": (prune_a_model, FLOATING[:1]),
    "ema": (update, NARROW),
    "sparsity": (count, (torch.float32, torch.float16)),
    "fuse": (fuse, FLOATING),
    "scale_img": (scale, FLOATING[:1]),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name, (_, dtypes) in CALLS.items() for dtype in dtypes],
    ids=str,
)
def test_written_meanwhile(name: str, dtype: torch.dtype) -> None:
    def work() -> None:
        torch.set_num_threads(1)
        sys.setswitchinterval(1e-6)
        guarded = Guarded()
        call = CALLS[name][0](guarded, dtype)
        with meanwhile(writer_of(guarded.tensors, 11)):
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                call()
        guarded.check()

    in_child(work, 60 + SECONDS)


@pytest.mark.parametrize("name", CALLS)
def test_rebound_meanwhile(name: str) -> None:
    """Another thread gives the tensors other memory while C works without the GIL: the memory that
    it works on is held, else it would be unmapped."""

    def work() -> None:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 16)
        torch.set_num_threads(1)
        sys.setswitchinterval(1e-6)
        _C.configure(gil_bytes=0)
        operation._STRICT = True  # torch's own operations would not hold it
        guarded, draw = Guarded(), random.Random(5)
        call = CALLS[name][0](guarded, torch.float32)

        def rebind() -> None:
            tensor = draw.choice(guarded.given)
            tensor.data = torch.ones(tensor.shape)

        with meanwhile(rebind):
            end = time.monotonic() + 4 * SECONDS
            while time.monotonic() < end:
                try:
                    call()
                except RuntimeError as error:
                    if "STRICT is on" not in str(error):
                        raise

    in_child(work, 60 + 4 * SECONDS)
