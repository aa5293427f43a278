"""What is found inside wrappers of a model."""

from __future__ import annotations

from copy import deepcopy
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from yolov5_utils import ModelEMA
from yolov5_utils.parallel import bare, de_parallel, is_fsdp2

from ..support import assert_same_state, original

X = torch.rand(3, 2)


def test_wrappers_in_any_order():
    model = nn.Linear(2, 2)
    assert bare(model) is model
    assert bare(nn.DataParallel(nn.DataParallel(model))) is model
    if hasattr(torch, "compile"):
        for wrapped in (
            torch.compile(model),
            torch.compile(nn.DataParallel(model)),
            nn.DataParallel(torch.compile(model)),
        ):
            assert bare(wrapped) is model
        assert de_parallel(torch.compile(model)) is not model  # as YOLOv5 has it


class Duck:
    """What the original asks of a model, and no more."""

    def __init__(self):
        self.weight = torch.ones(2)

    def eval(self):
        return self

    def parameters(self):
        return [self.weight]

    def state_dict(self):
        return {"weight": self.weight}


class Named(nn.Module):
    """A part has the name that a compiled module gives to its model."""

    def __init__(self):
        super().__init__()
        self._orig_mod, self.head = nn.Linear(2, 2), nn.Linear(2, 2)


def scripted():
    """No gradients: torch refuses to switch those of a script's copy off."""
    return torch.jit.script(nn.Linear(2, 2).requires_grad_(False))


def test_what_is_no_wrapper():
    """What has no modules, too: a client may hand over anything."""
    assert not is_fsdp2(nn.Sequential(nn.Linear(1, 1)))
    for model in (None, Duck(), Named(), MagicMock(), scripted()):
        assert bare(model) is model
        assert not is_fsdp2(model)


@pytest.mark.parametrize("make", [Duck, Named, scripted])
def test_an_average_of_anything_with_a_state(make):
    model = make()
    average = ModelEMA(model)
    assert type(average.ema) is type(model)
    expected = deepcopy(average.ema)
    for tensor in model.state_dict().values():
        tensor.detach().add_(1)
    original(expected, model, average.decay(1))
    average.update(model)
    assert_same_state(average.ema, expected)


@pytest.mark.parametrize("compile_it", [torch.jit.script, lambda m: torch.jit.trace(m, X)])
def test_an_average_of_what_torchscript_trains(compile_it):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = ModelEMA(model)
    expected, other = deepcopy(average.ema), compile_it(model)
    with torch.no_grad():
        other.state_dict()["0.weight"].add_(1)
    original(expected, other, average.decay(1))
    average.update(other)
    assert_same_state(average.ema, expected)


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="this torch has no compiler")
def test_an_average_of_a_compiled_model():
    """Its names are the model's, whichever is handed over."""
    model = nn.Linear(2, 2)
    averages = ModelEMA(model), ModelEMA(torch.compile(model))
    with torch.no_grad():
        model.weight.add_(1)
    for average, given in zip(averages, (torch.compile(model), model), strict=True):
        assert list(average.ema.state_dict()) == ["weight", "bias"]
        average.update(given)
    assert_same_state(averages[1].ema, averages[0].ema)
