"""fuse with the numbers of a trained model, and others, in every dtype: YOLOV5's own eps beside
variances as small, where a scalar that is rounded otherwise shows; against the original, at every
level."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from yolov5_utils import _C, _native, reference
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.ops import fuse as fuse_file
from yolov5_utils.ops.fuse_model import fuse_model
from yolov5_utils.torch_utils import fuse_conv_and_bn

from ..support import FLOATING, assert_same_bits, takes
from .test_fuse import assert_same, original, pair
from .test_fuse_model import Conv

SIXTEEN_BITS = (torch.float16, torch.bfloat16)
# YOLOv5's and torch's; a tie of float16 that float32 cannot tell from its neighbour; the ends of
# float16 and of float32; subnormal ones.
EPS = (
    *(1e-3, 1e-5, 0.0, -0.0, 1e-8, 1.0, 1 + 2.0**-11, 1 + 2.0**-11 + 2.0**-40, 0.1, 65519.0),
    *(65520.0, 1e30, 3.5e38, 1e300, -1e-3, -0.5, 3e-8, 1e-40, 1e-45, 1e-310),
    *(math.inf, -math.inf, math.nan),
)
DRAWS = 80


def draw(random: np.random.Generator, dtype: torch.dtype) -> tuple[Any, Any]:
    """A pair of any size, with variances from far below eps to far above it."""
    groups = int(random.choice([1, 1, 1, 2, 3]))
    outputs = groups * int(random.integers(1, 300 // groups + 1))
    inputs = groups * int(random.integers(1, 5))
    kernel = tuple(map(int, random.integers(1, 4, 2)))
    seed, bias = int(random.integers(1 << 30)), bool(random.integers(2))
    conv, bn = pair(outputs, inputs, kernel, seed=seed, bias=bias, groups=groups)
    bn.eps = float(random.choice(EPS)) if random.random() < 0.5 else 1e-3
    if random.random() < 0.3:
        bn.eps = float(10 ** random.uniform(-9, 1))
    magnitude = 10 ** random.uniform(-8, 1)
    bn.running_var.copy_(torch.from_numpy(random.uniform(0, magnitude, outputs)))
    return conv.to(dtype), bn.to(dtype)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_drawn_pairs(level: str, dtype: torch.dtype) -> None:
    random, calls = np.random.default_rng(17), OPERATIONS["fuse"].calls["C"]
    for _ in range(DRAWS):
        conv, bn = draw(random, dtype)
        found, wanted = fuse_conv_and_bn(conv, bn), original_in(dtype, conv, bn)
        assert_same(found, wanted)
    in_c = OPERATIONS["fuse"].calls["C"] - calls
    assert in_c > 0.7 * DRAWS, OPERATIONS["fuse"].reasons


def original_in(dtype: torch.dtype, conv: Any, bn: Any) -> nn.Conv2d:
    """The original; a bias that is missing is a zero of the type here."""
    if conv.bias is not None:
        return original(conv, bn)
    conv.bias = nn.Parameter(torch.zeros(conv.out_channels, dtype=dtype), requires_grad=False)
    wanted = original(conv, bn)
    conv.bias = None
    return wanted


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("eps", [1e-3, 1e-5], ids=str)
def test_every_small_number_of_channels(level: str, dtype: torch.dtype, eps: float) -> None:
    """The ends of torch's vectors, where it may take a scalar in another type."""
    for outputs in (*range(1, 35), 47, 48, 49, 63, 64, 65, 127, 128, 129, 255, 257):
        conv, bn = pair(outputs, 1, 1, seed=outputs)
        bn.eps = eps
        bn.running_var.uniform_(0, 10 * eps)
        conv, bn = conv.to(dtype), bn.to(dtype)
        assert_same(fuse_conv_and_bn(conv, bn), original(conv, bn))


@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
def test_whole_models(dtype: torch.dtype) -> None:
    random = np.random.default_rng(3)
    model = nn.Sequential(*(Conv(4, 8) for _ in range(20))).eval().requires_grad_(False)
    for module in model:
        module.conv, module.bn = draw(random, dtype)
        module.bn.eps = 1e-3
    wanted = [original_in(dtype, module.conv, module.bn) for module in model]
    with takes("fuse", calls=len(model)):
        fuse_model(model)
    for module, expected in zip(model, wanted, strict=True):
        assert_same(module.conv, expected)


def in_float32(conv: Any, bn: Any) -> nn.Conv2d:
    """The formula of a torch that keeps eps in float32 where it adds 16-bit numbers."""
    variance = bn.running_var
    bn.running_var, eps = (bn.running_var.float() + bn.eps).to(variance.dtype), bn.eps
    bn.eps = 0.0
    fused = ORIGINAL(conv, bn)
    bn.running_var, bn.eps = variance, eps
    return fused


ORIGINAL = reference.fuse_conv_and_bn


@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
def test_a_torch_that_rounds_otherwise(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """It is found out on first use, one type at a time, and such pairs are left to it."""
    monkeypatch.setattr(fuse_file, "_AGREES", {})
    monkeypatch.setattr(reference, "fuse_conv_and_bn", in_float32)
    conv, bn = (module.to(dtype) for module in pair(300, 2, 1))
    bn.running_var.uniform_(0, 0.1)
    with takes("fuse", "torch", 2):
        for _ in range(2):
            assert_same(fuse_conv_and_bn(conv, bn), in_float32(conv, bn))
    assert {dtype: False} == fuse_file._AGREES
    assert fuse_file.fuse_in_c([conv], [bn]) is None
    with takes("fuse"):
        assert_same(fuse_conv_and_bn(*pair()), original(*pair()))


@pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)
def test_this_torch_is_tried_once(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    known: dict[torch.dtype, bool] = {}
    monkeypatch.setattr(fuse_file, "_AGREES", known)
    conv, bn = (module.to(dtype) for module in pair(5, 2, 1))
    with torch.autocast("cpu"):
        fuse_conv_and_bn(conv, bn)
    assert known == {}
    state = torch.get_rng_state()
    assert_same_bits(fuse_file.fuse_one(conv, bn).weight, fuse_conv_and_bn(conv, bn).weight)
    assert torch.equal(torch.get_rng_state(), state)
    assert known == {dtype: True}


def test_no_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where C refuses at the moment, nothing is learnt of torch."""
    monkeypatch.setattr(fuse_file, "_AGREES", {})
    _, bn = pair(dtype=torch.bfloat16)

    def refuse(*_: Any) -> None:
        raise _native.Unsupported("not now")

    monkeypatch.setattr(_C, "fuse", refuse)
    assert fuse_file._rounds_as_torch(bn)
    assert fuse_file._AGREES == {}
