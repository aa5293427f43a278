"""entries.read: what state_dict has, whatever was done to the model, or that it cannot tell."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn

from yolov5_utils import probe
from yolov5_utils.distributed import entries

if probe.release() < (2, 7):
    pytest.skip("ShardedEMA needs torch 2.7", allow_module_level=True)


def net() -> Any:
    model: Any = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Identity())
    model.inner = nn.ModuleList([nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 2))])
    model.register_buffer("hidden", torch.ones(1), persistent=False)
    model.register_buffer("none", None)
    return model


def nothing(model: Any) -> None:
    pass


def replaced(model: Any) -> None:
    model.inner[1] = nn.Linear(4, 4)
    model[0].weight = nn.Parameter(torch.ones(5))


def shared(model: Any) -> None:
    model.inner[0].weight = model.inner[1][0].weight
    model.again = model.inner[1]


def renamed(model: Any) -> None:
    model.other = model._modules.pop("inner")


def a_buffer_in_place_of_a_parameter(model: Any) -> None:
    model[0]._buffers["weight"] = torch.zeros(2)


def shown(model: Any) -> None:
    model._non_persistent_buffers_set.clear()


def without_a_child(model: Any) -> None:
    model._modules["2"] = None


READ = (nothing, replaced, shared, renamed, a_buffer_in_place_of_a_parameter, shown)


@pytest.mark.parametrize("change", [*READ, without_a_child])
def test_as_state_dict(change: Callable[[Any], None]) -> None:
    model = net()
    change(model)
    found, expected = entries.read(model), model.state_dict(keep_vars=True)
    assert found is not None
    assert {name: id(value) for name, value in found.items()} == {
        name: id(value) for name, value in expected.items()
    }


def hook(model: Any) -> None:
    model[1]._register_state_dict_hook(lambda module, state, prefix, meta: state.clear())


def pre_hook(model: Any) -> None:
    model.inner[0].register_state_dict_pre_hook(lambda module, prefix, keep_vars: None)


def method_of_a_type(model: Any) -> None:
    class Odd(nn.Linear):
        def _save_to_state_dict(self, *args: Any) -> None:
            pass

    model.inner[0] = Odd(2, 2)


def method_of_an_instance(model: Any) -> None:
    model[2].state_dict = MethodType(nn.Module.state_dict, model[2])


def extra_state(model: Any) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> str:
            return "text"

    model.inner[0] = Odd(2, 2)


@pytest.mark.parametrize(
    "change", (hook, pre_hook, method_of_a_type, method_of_an_instance, extra_state)
)
def test_what_only_state_dict_knows(change: Callable[[Any], None]) -> None:
    model = net()
    change(model)
    assert entries.read(model) is None
