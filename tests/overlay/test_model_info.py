"""model_info under the overlay: the client's own code and text, without a copy of the model."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from conftest import Loader, ours, record
from torch import nn

import yolov5_utils
from yolov5_utils.helpers import counting

PROFILE = """
import torch
from torch import nn
from thop.rules import convolution

register_hooks = {nn.Conv2d: convolution}


def profile(model, inputs, verbose=True):
    seen.append(type(model))
    handles = []
    for module in model.modules():
        module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
        if type(module) in register_hooks:
            handles.append(module.register_forward_hook(register_hooks[type(module)]))
    with torch.no_grad():
        model(*inputs)
    for handle in handles:
        handle.remove()
    return sum(float(module.total_ops) for module in model.modules()), 0


seen = []
"""
RULES = "def convolution(m, x, y):\n    m.total_ops += y.numel() * 10**6"


class Model(nn.Sequential):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.yaml: Any = {"ch": 4}


@pytest.fixture(autouse=True)
def thop(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A thop with one rule, and classes that pass for YOLOv5's: what was profiled."""
    package = ModuleType("thop")
    monkeypatch.setitem(sys.modules, "thop", package)
    for name, text in (("rules", RULES), ("profile", PROFILE)):
        module = ModuleType(f"thop.{name}")
        monkeypatch.setitem(sys.modules, f"thop.{name}", module)
        exec(text, vars(module))
    package.profile = module.profile
    monkeypatch.setattr(counting, "_thops", counting._Thops())
    monkeypatch.setattr(Model, "__module__", "models.yolo")
    return package


def model_of() -> Model:
    return Model(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 2, 1))


def profiled() -> list[type]:
    found: list[type] = sys.modules["thop.profile"].seen
    return found


def said(module: Any, caplog: pytest.LogCaptureFixture, *args: Any, **named: Any) -> list[Any]:
    """What a call logs, and from where."""
    caplog.clear()
    caplog.set_level("INFO")
    assert module.model_info(*args, **named) is None
    lines = [each for each in caplog.records if "yolov5_utils" not in each.getMessage()]
    return [(each.getMessage(), each.name, each.levelname, each.funcName) for each in lines]


@pytest.mark.parametrize("size", [{}, {"size": 320}, {"verbose": False, "size": [64, 32]}])
def test_the_text_is_the_clients(
    yolov5: tuple[Any, Any], caplog: pytest.LogCaptureFixture, size: dict[str, Any]
) -> None:
    patched, stock = yolov5
    assert ours(patched.model_info)
    model, counted = model_of(), dict(counting.RECORD.calls)
    text = said(patched, caplog, model, **size)
    assert Model not in profiled()
    assert counting.RECORD.calls == {**counted, "shapes": counted["shapes"] + 1}
    assert text == said(stock, caplog, model, **size)
    assert Model in profiled()
    assert ("costs" in text[0][0]) == (not isinstance(size.get("size"), list))


def test_a_verbose_call_is_the_clients(
    yolov5: tuple[Any, Any], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of()
    texts = [(said(module, caplog, model, True), capsys.readouterr()) for module in yolov5]
    assert texts[0] == texts[1]
    assert profiled().count(Model) == 2
    assert counting.RECORD.reasons["it prints every parameter"] > 0
    why = yolov5_utils.explain("model_info", model, True).why
    assert why.endswith("replaced, but this call is torch's: it prints every parameter")


@pytest.mark.parametrize("broken", ["no yaml", "no thop", "float64"])
def test_without_a_count_too(
    yolov5: tuple[Any, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
) -> None:
    model: Any = model_of()
    if broken == "no yaml":
        model.yaml = None
    elif broken == "float64":
        model.double()
    else:
        for module in yolov5:
            monkeypatch.setattr(module, "thop", None)
        monkeypatch.setitem(sys.modules, "thop", None)
    patched, stock = (said(module, caplog, model) for module in yolov5)
    assert patched == stock
    assert "costs" not in patched[0][0]


def test_another_copy_or_thop_of_the_file_is_called(
    patched: Loader, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module, copied = patched("7.0"), []
    other = ModuleType("thop")
    other.profile = lambda model, inputs, verbose: (copied.append(model), (7e9, 0))[1]
    monkeypatch.setattr(module, "thop", other)
    model = model_of()
    assert "140.000 costs" in said(module, caplog, model)[0][0]
    assert type(copied[0]) is Model
    monkeypatch.undo()
    monkeypatch.setattr(module, "deepcopy", lambda model: copied.append(model) or model)
    said(module, caplog, model)
    assert copied[-1] is model


def test_what_is_said_of_it(patched: Loader) -> None:
    patched("6.1")
    assert "model_info" in record().replaced
    assert yolov5_utils.explain("model_info").way == "shapes"
    assert yolov5_utils.info().model_info.calls == counting.RECORD.calls


def test_ultralytics_own_is_not_looked_at(patched: Loader) -> None:
    module = patched("u8.3")
    assert not ours(module.model_info)
    assert "model_info" not in record().left
