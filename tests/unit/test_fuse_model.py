"""fuse_model: which modules it fuses, what they are afterwards, and that errors change nothing."""

from __future__ import annotations

import copy
import io
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

import yolov5_utils
from benchmarks import models
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.ops import fuse_model as file
from yolov5_utils.ops.fuse_model import fuse_model

from ..support import assert_same_bits, takes
from .test_fuse import original


class Conv(nn.Module):
    """As YOLOv5 5.0 has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def fuseforward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Branches(Conv):
    """A second convolution, which fusing the first one would forget."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.more = nn.Conv2d(4, 4, 1)


def small() -> nn.Sequential:
    parts = [Conv(3, 4), Branches(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), Conv(4, 2)]
    return nn.Sequential(*parts).eval().requires_grad_(False)


def test_a_whole_model(level: str, threads: int) -> None:
    model = models.build("n").eval().requires_grad_(False)
    wanted = {
        name: original(module.conv, module.bn)
        for name, module in model.named_modules()
        if isinstance(module, models.Conv)
    }
    assert len(wanted) == 57
    with takes("fuse", calls=57):
        assert fuse_model(model) is model
    for name, module in model.named_modules():
        if name in wanted:
            assert not hasattr(module, "bn")
            assert module.forward == module.forward_fuse
            assert_same_bits(module.conv.weight.detach(), wanted[name].weight.detach())
            assert_same_bits(module.conv.bias.detach(), wanted[name].bias.detach())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_what_is_fused() -> None:
    model = small()
    x = torch.randn(2, 3, 8, 8)
    expected = model[0](x)
    fuse_model(model)
    assert [hasattr(module, "bn") for module in model] == [False, True, False, False, False]
    assert isinstance(model[3], nn.BatchNorm2d)
    torch.testing.assert_close(model[0](x), expected, rtol=1e-4, atol=1e-5)
    again = [module.conv for module in (model[0], model[4])]
    fuse_model(model)
    assert [module.conv for module in (model[0], model[4])] == again
    assert fuse_model(nn.Identity()) is not None


def test_the_fused_model_is_saved_and_copied() -> None:
    model = fuse_model(small()[0])
    x = torch.randn(1, 3, 5, 5)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(x), model(x))


class Watched(Conv):
    """A module that does more than nn.Module where an attribute is set."""

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__.setdefault("set", []).append(name)
        super().__setattr__(name, value)


def test_own_ways_of_setting_attributes() -> None:
    model = Watched(3, 4).eval().requires_grad_(False)
    del model.set[:]
    fuse_model(model)
    assert model.set == ["conv", "forward"]
    assert list(model._modules) == ["conv", "act"]


def test_registration_hooks() -> None:
    seen: list[str] = []
    model = small()
    hook = torch_module.register_module_module_registration_hook(
        lambda module, name, child: seen.append(name)
    )
    try:
        fuse_model(model)
    finally:
        hook.remove()
    assert seen == ["conv", "conv"]


def test_a_module_met_twice() -> None:
    shared = Conv(4, 4)
    model = nn.Sequential(shared, nn.Sequential(shared), nn.Identity()).eval().requires_grad_(False)
    model.register_module("none", None)
    with takes("fuse"):
        fuse_model(model)


def test_an_error_changes_nothing() -> None:
    model = small()
    model[4].bn = nn.BatchNorm2d(3)
    before = dict(model.named_modules())
    with pytest.raises(RuntimeError):
        fuse_model(model)
    assert dict(model.named_modules()) == before
    assert "forward" not in model[0].__dict__


def test_one_pair_for_torch() -> None:
    model = small()
    model[0].conv.weight[0, 0, 0, 0] = float("inf")
    wanted = [original(model[i].conv, model[i].bn) for i in (0, 4)]
    calls = OPERATIONS["fuse"].counted()
    fuse_model(model)
    more = {"C": calls["C"] + 1, "torch": calls["torch"] + 1}
    assert OPERATIONS["fuse"].counted() == {**calls, **more}
    for module, conv in zip((model[0], model[4]), wanted, strict=True):
        assert_same_bits(module.conv.weight.detach(), conv.weight.detach())


class Terminal:
    def __init__(self, is_one: bool) -> None:
        self.is_one, self.written = is_one, ""

    def isatty(self) -> bool:
        return self.is_one

    def write(self, text: str) -> None:
        self.written += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("after_s", [0.0, 60.0])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_bar(monkeypatch: Any, after_s: float, is_terminal: bool) -> None:
    screen = Terminal(is_terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(file, "_BAR_AFTER_S", after_s)
    monkeypatch.setattr(file, "_BATCH_ELEMENTS", 1)
    fuse_model(small())
    if is_terminal and after_s == 0:
        assert screen.written.endswith(f"[{'#' * 30}] 2/2 layers\n")
        assert "1/2" in screen.written
    else:
        assert screen.written == ""


class Broken(Terminal):
    def write(self, text: str) -> None:
        raise BrokenPipeError


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, object(), closed(), Broken(True)])
def test_a_stderr_without_a_bar(monkeypatch: Any, stream: Any) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(file, "_BAR_AFTER_S", 0.0)
    fuse_model(small())


def test_the_public_name() -> None:
    assert yolov5_utils.fuse_model is fuse_model
