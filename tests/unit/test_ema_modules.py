"""ModelEMA on whole models: which entries move, and what may happen to a model between updates.
The oracle is the original loop of torch operations on copies."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from yolov5_utils import _C, reference
from yolov5_utils.torch_utils import ModelEMA

from ..support import original
from .ema_models import Net, assert_state, averaged, check, snapshot, trained


def test_many_updates(level: str) -> None:
    model, ema = averaged()
    for step in range(1, 12):
        check(ema, trained(model, step))
        assert ema.updates == step


def test_attributes() -> None:
    ema = ModelEMA(Net(), decay=0.9, updates=3)
    assert sorted(vars(ema)) == ["decay", "ema", "updates"]
    assert ema.updates == 3
    assert ema.decay(5) == 0.9 * (1 - math.exp(-5 / 2000))
    assert not ema.ema.training
    assert not any(p.requires_grad for p in ema.ema.parameters())
    twin = copy.deepcopy(ema)
    assert twin.updates == 3
    assert twin.ema is not ema.ema


def test_decay_and_updates_are_read_at_every_update() -> None:
    model, ema = averaged()
    ema.updates = 1000
    check(ema, trained(model))
    assert ema.updates == 1001
    ema.decay = lambda x: 0.25
    check(ema, trained(model, 2))


def test_decay_that_is_no_float() -> None:
    model, ema = averaged()
    ema.decay = lambda x: torch.tensor([0.5])
    check(ema, trained(model), way="torch")
    ema.decay = lambda x: 1
    check(ema, trained(model), way="torch")
    ema.decay = lambda x: np.array(0.5)  # multiplies on its own, so that the original moves nothing
    check(ema, trained(model), way="torch")


@pytest.mark.parametrize("make", [torch.tensor, np.array, np.float32])
def test_updates_that_are_no_int(make: Callable[[int], Any]) -> None:
    """What counts in place stays the same object, also where somebody else has it."""
    model, ema = averaged()
    ema.updates, expected = (counter := make(3)), make(3)
    expected += 1
    ema.update(model)
    assert (ema.updates is counter) == hasattr(counter, "__iadd__")
    with pytest.raises(KeyError):
        ema.update(nn.ReLU())
    assert type(ema.updates) is type(expected)
    assert ema.updates == expected


def test_wrapped_models() -> None:
    model = Net()
    ema = ModelEMA(nn.DataParallel(model))
    assert type(ema.ema) is Net
    check(ema, nn.DataParallel(trained(model)))


def test_wrapper_subclass_is_not_unwrapped() -> None:
    class Parallel(nn.DataParallel):
        pass

    model, ema = averaged()
    expected = snapshot(ema.ema)
    with pytest.raises(KeyError, match="anchors"):
        ema.update(Parallel(model))
    assert_state(ema.ema, expected)


def test_tied_tensors_move_once_per_key() -> None:
    model = Net()
    model.head[2].weight = nn.Parameter(torch.rand(4, 4))
    model.tied = nn.Linear(4, 4)
    model.tied.weight = model.head[2].weight
    ema = ModelEMA(model)
    assert ema.ema.tied.weight is ema.ema.head[2].weight
    ema.decay = lambda x: 0.5
    before = ema.ema.tied.weight.clone()
    check(ema, trained(model))
    moved = (ema.ema.tied.weight - before) / (model.tied.weight - before)
    assert moved.mean().item() == pytest.approx(0.75, abs=1e-3)


def test_module_used_twice() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, shared)
    check(ModelEMA(model), trained(model))


def test_frozen_parameters_move() -> None:
    model = Net()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    check(ModelEMA(model), trained(model))


@pytest.mark.parametrize("side", ["ema", "model", "both"])
@pytest.mark.parametrize("cast", ["half", "double", "bfloat16"])
def test_casts_after_the_copy(level: str, side: str, cast: str) -> None:
    model, ema = averaged()
    trained(model)
    if side in ("ema", "both"):
        getattr(ema.ema, cast)()
    if side in ("model", "both"):
        getattr(model, cast)()
    check(ema, model)


def test_half_and_back_between_updates() -> None:
    """What validation does to the EMA every epoch: new storage, new buffer objects."""
    model, ema = averaged()
    for step in range(4):
        check(ema, trained(model, step))
        ema.ema.half().float()


def test_storage_that_moved() -> None:
    model, ema = averaged()
    check(ema, trained(model))
    model.conv.weight.data = torch.rand(8, 3, 3, 3)
    check(ema, model)
    ema.ema.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    check(ema, trained(model, 3))
    model.to(memory_format=torch.channels_last)
    check(ema, trained(model, 4))
    model.head[0] = nn.Conv2d(8, 4, 1)
    check(ema, model)
    model.to(memory_format=torch.contiguous_format)
    torch_prune.l1_unstructured(model.conv, "weight", 0.3)
    torch_prune.remove(model.conv, "weight")
    check(ema, model)


def test_sync_batch_norm_conversion() -> None:
    model, ema = averaged()
    check(ema, nn.SyncBatchNorm.convert_sync_batchnorm(trained(model)))


def test_extra_entries_of_the_model_are_ignored() -> None:
    model, ema = averaged()
    model.more = nn.Linear(2, 2)
    model.register_buffer("extra", torch.ones(3))
    ema_keys = list(ema.ema.state_dict())
    check(ema, trained(model), way="torch")
    assert list(ema.ema.state_dict()) == ema_keys


def test_parameter_on_one_side_buffer_on_the_other() -> None:
    model, ema = averaged()
    anchors = model.anchors
    del model.anchors
    model.anchors = nn.Parameter(anchors + 1)
    check(ema, model)


def test_versions_rise(level: str) -> None:
    model, ema = averaged()
    tensors = dict(ema.ema.state_dict(keep_vars=True).items())
    before = {k: v._version for k, v in tensors.items()}
    ema.update(trained(model))
    for key, tensor in tensors.items():
        assert (tensor._version > before[key]) == tensor.dtype.is_floating_point, key


def test_inference_tensors() -> None:
    """The original updates them, outside inference mode too."""
    model, ema = averaged()
    with torch.inference_mode():
        ema.ema.anchors = ema.ema.anchors.clone()
    for step in range(2):
        expected = snapshot(ema.ema)
        state = trained(model, step).state_dict()
        decay = ema.decay(ema.updates + 1)
        for key, value in expected.items():
            if value.dtype.is_floating_point:
                expected[key] = value * decay + (1 - decay) * state[key]
        with torch.inference_mode(mode=step == 1):
            ema.update(model)
        assert_state(ema.ema, expected)


def test_negative_bit() -> None:
    model, ema = averaged()
    model.anchors = torch.complex(torch.rand(3, 2), torch.rand(3, 2)).conj().imag
    assert model.anchors.is_neg()
    check(ema, model, way="torch")


def test_update_attr() -> None:
    model = Net()
    model.names, model._private, model.reducer, model.stride = ["a"], 1, 2, 3
    ema = ModelEMA(Net())
    ema.update_attr(model, include=("names", "stride"))
    assert (ema.ema.names, ema.ema.stride) == (["a"], 3)
    assert not hasattr(ema.ema, "reducer")
    ema.update_attr(model)
    assert not hasattr(ema.ema, "reducer")
    assert not hasattr(ema.ema, "_private")
    assert ema.ema.training  # as upstream: public attributes include `training`


def test_no_grad_and_result() -> None:
    model, ema = averaged()
    assert ema.update(model) is None
    assert all(v.grad_fn is None for v in ema.ema.state_dict(keep_vars=True).values())


@pytest.mark.parametrize("arguments", [(), (1,), (1, 2), (1, 2, 3, [], 5)])
def test_wrong_arguments(arguments: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match="ema_update"):
        _C.ema_update(*arguments)
    with pytest.raises(TypeError, match="unexpected keyword argument 'wrong'"):
        _C.ema_update(1, 2, wrong=3)
    with pytest.raises(TypeError, match="multiple values for argument 'source'"):
        _C.ema_update(1, 2, source=3)


def test_keywords() -> None:
    model = Net()
    average = copy.deepcopy(model)
    expected = copy.deepcopy(model)
    trained(model)
    original(expected, model, 0.5)
    _C.ema_update(decay=0.5, source=model, average=average)
    assert_state(average, expected.state_dict())


def test_reference_is_the_original() -> None:
    model = Net()
    average, expected = copy.deepcopy(model), copy.deepcopy(model)
    trained(model)
    reference.ema_update(average, model, 0.97)
    original(expected, model, 0.97)
    assert_state(average, expected.state_dict())
