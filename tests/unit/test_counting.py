"""Operations counted from shapes, against a count in a copy by a thop of our own."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from copy import deepcopy
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from yolov5_utils.helpers import counting
from yolov5_utils.torch_utils import model_info

# A thop by its interface: a table of rules, and a profile that runs the model with hooks.
PROFILE = """
import torch
from torch import nn
from thop.rules import convolution, norm, zero_ops

register_hooks = {nn.Conv2d: convolution, nn.Sequential: zero_ops, nn.modules.batchnorm.BATCH: norm}


def profile(model, inputs, verbose=True):
    profile.seen.append(model)
    handles = []

    def watch(module):
        module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
        rule = next((register_hooks[base] for base in LOOK if base in register_hooks), None)
        if rule is not None:
            handles.append(module.register_forward_hook(rule))

    model.eval()
    model.apply(watch)
    with torch.no_grad():
        model(*inputs)
    for handle in handles:
        handle.remove()
    return sum(float(module.total_ops) for module in model.modules()), 0


profile.seen = []
"""
RULES = """
def zero_ops(m, x, y):
    m.total_ops += 0


def convolution(m, x, y):
    m.total_ops += y.numel() * m.weight[0].numel() * 1000


def norm(m, x, y):
    m.total_ops += x[0].numel() * 1000
"""
EXACT = PROFILE.replace("BATCH", "BatchNorm2d").replace("LOOK", "[type(module)]")
INHERITED = PROFILE.replace("BATCH", "_NormBase").replace("LOOK", "type(module).__mro__")
OTHER = EXACT.replace("float(module.total_ops)", "float(module.total_ops) ** 2")


def install(monkeypatch: pytest.MonkeyPatch, profile: str = EXACT) -> Any:
    """Have a small thop imported: the package."""
    package = ModuleType("thop")
    for name, text in (("rules", RULES), ("profile", profile)):
        module = ModuleType(f"thop.{name}")
        monkeypatch.setitem(sys.modules, f"thop.{name}", module)
        monkeypatch.setitem(sys.modules, "thop", package)
        exec(text, vars(module))
    package.profile = module.profile
    return package


@pytest.fixture
def thop(monkeypatch: pytest.MonkeyPatch) -> Any:
    return install(monkeypatch)


class Block(nn.Module):
    """As YOLOv5's: a convolution and its norm, alone where it was fused; a shared activation."""

    activation = nn.SiLU()

    def __init__(self, channels: int, made: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, made, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(made)
        self.act = self.activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))

    def fused(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(x))


class Model(nn.Module):
    """As YOLOv5's: settings, strides, sources of layers, a head that keeps a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.yaml = {"ch": 3, "backbone": [[-1, 1, "Block", [4]], [None, 1.5]]}
        self.stride = torch.tensor([32.0])
        self.grid = [torch.zeros(1)]
        self.model = nn.Sequential(Block(3, 4), Block(4, 8), nn.MaxPool2d(2), nn.Upsample(None, 2))
        self.head = nn.Conv2d(12, 6, 1)
        self.register_buffer("anchors", torch.ones(1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.model[0](x)
        y = self.model[3](self.model[2](self.model[1](x)))
        small = nn.functional.interpolate(y, size=x.shape[2:], mode="nearest")
        y = self.head(torch.cat((x, small), 1))
        self.grid[0] = torch.arange(y.shape[3], device=y.device)
        return (y[..., 0:2].sigmoid() * 2 + self.grid[0][:2]) * self.anchors


@pytest.fixture(autouse=True)
def clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes here pass for YOLOv5's, where thop is asked anew."""
    for kind in (Block, Model):
        monkeypatch.setattr(kind, "__module__", "models.common")
    monkeypatch.setattr(counting, "_thops", counting._Thops())


def gflops(model: Any, thop: Any) -> tuple[float | str, float | str, list[Any]]:
    """A count by our stand-in, one in a copy, and the models that the first had thop run."""

    def count(made: Callable[[], Any]) -> float | str:
        try:
            return float(thop.profile(made(), inputs=(torch.zeros(1, 3, 32, 32),))[0])
        except Exception as error:  # a model's own: both have to raise it
            return repr(error)

    counting._thops._tried = None
    thop.profile.seen.clear()
    ours = count(lambda: counting.stand_in(model, thop))
    ran = [each for each in thop.profile.seen if type(each) is type(model)]
    return ours, count(lambda: deepcopy(model)), ran


def state(model: nn.Module) -> list[Any]:
    """All that a call must leave: tensors and their versions, modes, hooks, attributes' objects."""
    found: list[Any] = [torch.get_rng_state().tolist()]
    for module in model.modules():
        found.append([(name, id(value)) for name, value in vars(module).items()])
        found.append([list(value) for value in (module._buffers, module._modules)])
        found.append((module.training, len(module._forward_hooks)))
        tensors = (*module._parameters.values(), *module._buffers.values())
        found.append([(t._version, t.tolist()) for t in tensors if t is not None])
    return [found, [id(grid) for grid in getattr(model, "grid", ())]]


@pytest.mark.parametrize("profile", [EXACT, INHERITED], ids=["exact", "inherited"])
@pytest.mark.parametrize("fused", [False, True])
def test_the_count_is_that_of_a_copy(
    monkeypatch: pytest.MonkeyPatch, profile: str, fused: bool
) -> None:
    thop, model = install(monkeypatch, profile), Model()
    if fused:
        for block in model.model[:2]:
            block.forward = block.fused
            del block.bn
    before, counted = state(model), counting.RECORD.calls["shapes"]
    ours, copied, ran = gflops(model, thop)
    assert ours == copied
    assert ours > 0
    assert ran == []
    assert state(model) == before
    assert counting.RECORD.calls["shapes"] == counted + 1


def test_the_log_is_that_of_a_copy(thop: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="yolov5_utils.torch_utils")
    model = Model()
    for _ in range(2):
        model_info(model)
        model.mark = threading.Event  # a class, which is copied but not known
    ours, copied = (record.getMessage() for record in caplog.records)
    assert ours == copied
    assert "GFLOPs" in ours
    assert [type(each).__name__ for each in thop.profile.seen].count("Model") == 1


def test_a_thop_that_counts_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    thop, model = install(monkeypatch, OTHER), Model()
    assert counting.why_a_copy(model, thop) == "this thop counts in another way"
    assert len(gflops(model, thop)[2]) == 1


def hooked(model: Any) -> None:
    model.model[0].register_forward_hook(lambda module, inputs, output: output)


def weight_read(model: Any) -> None:
    model.head.weight.data = model.head.weight.data.double()


def attribute(name: str, value: Any) -> Callable[[Any], None]:
    return lambda model: setattr(model, name, value)


class Copied(nn.Conv2d):
    def __deepcopy__(self, memo: Any) -> Any:
        return self


ODD = {
    "a hook": (hooked, "a module has hooks"),
    "a class of its own": (
        lambda m: setattr(m, "head", Copied(12, 6, 1)),
        "modules of the class Copied are not known",
    ),
    "a lock": (attribute("lock", threading.Lock()), "an attribute is a lock"),
    "float64": (weight_read, "the tensors of a Conv2d are not as usual"),
    "half": (lambda m: m.half(), "the tensors of a Conv2d are not as usual"),
    "meta": (lambda m: m.to("meta"), "a tensor is not a usual one on the CPU"),
    "lazy": (
        lambda m: setattr(m, "head", nn.LazyConv2d(6, 1)),
        "modules of the class LazyConv2d are not known",
    ),
    "what thop leaves": (
        lambda m: m.head.register_buffer("total_ops", torch.zeros(1)),
        "the tensors of a Conv2d are not as usual",
    ),
    "padding": (
        lambda m: setattr(m, "head", nn.Conv2d(12, 6, 1, padding_mode="reflect")),
        "a convolution that pads in another way",
    ),
    "a stride of nothing": (
        lambda m: setattr(m.head, "stride", (0, 1)),
        "a convolution whose sizes are out of range",
    ),
    "a result of others": (
        lambda m: setattr(m, "stride", nn.Parameter(torch.ones(1)) * 2),
        "an attribute is a Tensor",
    ),
    "endless": (
        lambda m: m.yaml["backbone"].append(m.yaml["backbone"]),
        "attributes within attributes without end",
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_model_is_copied(thop: Any, odd: str) -> None:
    model = Model()
    change, reason = ODD[odd]
    change(model)
    assert counting.why_a_copy(model, thop) == reason
    noted = counting.RECORD.reasons.get(reason, 0)
    ours, copied, _ = gflops(model, thop)
    assert ours == copied or "RuntimeError" in str(ours)  # whose text may name an address
    assert counting.RECORD.reasons[reason] == noted + 1


def forward_of(text: str) -> Callable[[Any, torch.Tensor], Any]:
    names: dict[str, Any] = {"torch": torch, "original": Model.forward}
    exec(f"def forward(self, x):\n    {text}\n    return original(self, x)", names)
    forward: Callable[[Any, torch.Tensor], Any] = names["forward"]
    return forward


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("float(x.sum())", "the forward pass calls sum"),
        ("x[x > 0]", "the forward pass calls gt"),
        ("x[torch.arange(1)]", "the forward pass calls __getitem__"),
        ("torch.rand(3)", "the forward pass calls rand"),
        ("self.anchors.add_(1)", "the forward pass calls add_"),
        ("self.head.weight.data.mul_(2)", "the forward pass failed on shapes alone"),
        ("self.model[1](x)", "an input that a Conv2d may refuse"),
        ("raise ValueError('odd')", "the forward pass failed on shapes alone"),
    ],
)
def test_a_forward_pass_that_needs_more_than_shapes(
    thop: Any, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    model = Model()
    monkeypatch.setattr(Model, "forward", forward_of(text))
    before, noted = state(model)[0][1:], counting.RECORD.reasons.get(reason, 0)
    ours, copied, ran = gflops(model, thop)
    assert ours == copied
    assert len(ran) == 1
    assert state(model)[0][1:] == before
    assert counting.RECORD.reasons[reason] == noted + 1


def test_an_interrupt_passes_and_leaves_nothing(thop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    before = state(model)
    monkeypatch.setattr(Model, "forward", forward_of("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        model_info(model)
    assert state(model) == before


def test_a_layer_at_two_places(thop: Any) -> None:
    model = Model()
    model.model[0].bn = model.model[1].bn = nn.BatchNorm2d(4)
    model.model[1].conv = nn.Conv2d(4, 4, 3, 2, 1)
    model.head = nn.Conv2d(8, 6, 1)
    reason = "a module that is counted is at several places"
    noted = counting.RECORD.reasons.get(reason, 0)
    ours, copied, ran = gflops(model, thop)
    assert ours == copied
    assert len(ran) == 1
    assert counting.RECORD.reasons[reason] == noted + 1


class Mode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_who_looks_on_sees_a_copy(thop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    assert counting.why_a_copy(model, thop) is None
    with Mode():
        assert (
            counting.why_a_copy(model, thop) == "a mode, a trace or a transform of torch is active"
        )
    with torch.autocast("cpu", torch.bfloat16):
        assert counting.why_a_copy(model, thop) == "autocast is on"
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert counting.why_a_copy(model, thop) == "hooks for all modules are registered"
    finally:
        handle.remove()
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: x)
    assert counting.why_a_copy(model, thop) == "torch.nn.Conv2d.forward was replaced"


def test_replaced_parts_of_thop(thop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    rules = sys.modules["thop.profile"].register_hooks
    monkeypatch.setitem(rules, nn.SiLU, lambda m, x, y: None)
    assert counting.why_a_copy(model, thop) == "thop's rule for SiLU is not its own"
    monkeypatch.setattr(thop, "profile", lambda model, inputs, verbose: (1, 1))
    assert counting.why_a_copy(model, thop) == "thop.profile is not thop's own"
    assert counting.why_a_copy(model, None) == "thop is not there"


def test_a_model_does_not_live_longer(thop: Any) -> None:
    model = Model()
    model_info(model)
    thop.profile.seen.clear()
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()
