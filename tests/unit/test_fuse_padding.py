"""The fused convolution computes bn(conv(x)), whatever nn.Conv2d's forward looks at: every mode of
padding, sizes drawn at random, every way."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from yolov5_utils import reference
from yolov5_utils.ops.fuse_model import fuse_model
from yolov5_utils.torch_utils import fuse_conv_and_bn

from ..support import takes
from .devices import Device
from .test_fuse import assert_same, compare_members, fused_in_c, original, pair
from .test_fuse_model import Conv

MODES = ("zeros", "reflect", "replicate", "circular")


def draw(random: np.random.Generator, mode: str) -> tuple[Any, Any]:
    groups = int(random.choice([1, 1, 2, 3]))
    padding: Any = tuple(map(int, random.integers(0, 4, 2)))
    stride = tuple(map(int, random.integers(1, 4, 2)))
    if random.random() < 0.4:
        padding, stride = str(random.choice(["same", "valid"])), (1, 1)
    conv, bn = pair(
        groups * int(random.integers(1, 6)),
        groups * int(random.integers(1, 4)),
        tuple(map(int, random.integers(1, 5, 2))),
        seed=int(random.integers(1 << 30)),
        bias=bool(random.integers(2)),
        groups=groups,
        padding=padding,
        stride=stride,
        dilation=tuple(map(int, random.integers(1, 4, 2))),
        padding_mode=mode,
    )
    return conv, bn.eval()


def assert_computes_both(fused: nn.Conv2d, conv: Any, bn: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, conv.in_channels, 13, 16, generator=generator)
    torch.testing.assert_close(fused(x), bn(conv(x)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_drawn_convolutions(mode: str) -> None:
    random = np.random.default_rng(MODES.index(mode))
    for _ in range(60):
        conv, bn = draw(random, mode)
        fused, wanted = fused_in_c(conv, bn), original(conv, bn)
        assert_same(fused, wanted)
        compare_members(fused, wanted)
        assert_computes_both(fused, conv, bn)


@pytest.mark.parametrize("mode", MODES)
def test_padding_that_was_set_later(mode: str) -> None:
    """Only the mode of zeros looks at `padding` when it runs."""
    for before, after in ((1, (2, 0)), ((0, 2), (0, 0)), ("same", (3, 3))):
        conv, bn = pair(4, 3, 3, padding=before, padding_mode=mode)
        conv.padding = after
        fused = fused_in_c(conv, bn)
        assert_computes_both(fused, conv, bn.eval())
        assert_computes_both(reference.fuse_conv_and_bn(conv, bn), conv, bn)
        if mode != "zeros":
            mine = fused._reversed_padding_repeated_twice
            assert mine == conv._reversed_padding_repeated_twice
            assert mine is not conv._reversed_padding_repeated_twice or type(mine) is tuple


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [0, (1, 2), "same"], ids=str)
def test_saved_as_the_reference_is(mode: str, padding: Any) -> None:
    """Byte by byte, of several modules at once: a pickle shows which of them share an object."""
    conv, bn = pair(4, 3, 3, padding=padding, padding_mode=mode)
    files = []
    for fuse in (fuse_conv_and_bn, reference.fuse_conv_and_bn):
        with torch.random.fork_rng(devices=[]):
            model = nn.Sequential(*(fuse(conv, bn) for _ in range(3)), conv)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        files.append(buffer.getvalue())
    assert files[0] == files[1]


@pytest.mark.parametrize("mode", MODES)
def test_with_gradients(mode: str) -> None:
    conv, bn = pair(4, 3, 3, padding=1, padding_mode=mode)
    conv.weight.requires_grad_(True)
    fused = fuse_conv_and_bn(conv, bn.eval())
    assert fused.weight.requires_grad
    assert_computes_both(fused, conv, bn)


def mixed_model() -> nn.Sequential:
    random = np.random.default_rng(4)
    model = nn.Sequential(*(Conv(4, 8) for _ in range(12))).eval()
    for i, module in enumerate(model):
        module.conv, module.bn = draw(random, MODES[i % 4])
    return model.requires_grad_(False)


def test_whole_models() -> None:
    model = mixed_model()
    pairs = [(module.conv, module.bn) for module in model]
    fuse_model(model)
    for module, (conv, bn) in zip(model, pairs, strict=True):
        compare_members(module.conv, original(conv, bn))
        assert_computes_both(module.conv, conv, bn)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [(2, 1), "same"], ids=str)
def test_devices(device: Device, mode: str, padding: Any) -> None:
    conv, bn = pair(4, 3, (3, 2), padding=padding, padding_mode=mode)
    conv, bn = conv.to(device.place), bn.eval().to(device.place)
    with takes("fuse", device.way):
        fused = fuse_conv_and_bn(conv, bn)
    for name in ("padding", "padding_mode", "_reversed_padding_repeated_twice"):
        assert getattr(fused, name) == getattr(original(conv, bn), name)
    assert_computes_both(fused.cpu(), conv.cpu(), bn.cpu())


def test_a_mode_that_no_constructor_takes() -> None:
    conv, bn = pair()
    conv.padding_mode = "edge"
    with pytest.raises(ValueError, match="padding_mode"):
        fuse_conv_and_bn(conv, bn)
