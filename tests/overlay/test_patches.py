"""The replaced functions against the client's own, release by release, bit for bit."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from conftest import Loader
from synthetic import ULTRALYTICS
from torch import nn

from tests.support import assert_raise_alike, takes
from yolov5_utils import overlay
from yolov5_utils.overlay.fingerprint import identify


def model_of(seed: int = 0) -> nn.Module:
    """Convolutions and norms with float and integer buffers, a frozen and a tied weight."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 13, 3), nn.BatchNorm2d(13), nn.Conv2d(13, 13, 1))
    model.append(model[2])
    model.register_buffer("anchors", torch.rand(3, 2))
    model.register_buffer("passing", torch.rand(2), persistent=False)
    model[0].bias.requires_grad_(False)
    return model


def same_averages(ours: Any, theirs: Any) -> bool:
    return same_bits(ours.ema.state_dict(), theirs.ema.state_dict())


def train_a_little(model: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value += torch.randn(value.shape).to(value.dtype)


def same_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return list(ours) == list(theirs) and all(
        value.dtype == theirs[key].dtype
        and value.contiguous().numpy().tobytes() == theirs[key].contiguous().numpy().tobytes()
        for key, value in ours.items()
    )


@pytest.fixture(params=ULTRALYTICS)
def ultralytics(request: pytest.FixtureRequest, client: Loader, stock: Loader) -> tuple[Any, Any]:
    """`pair`, of the releases whose average can be switched off."""
    overlay.install()
    return client(request.param), stock(request.param)


def test_average_is_the_stock_average(pair: tuple[Any, Any]) -> None:
    ours, theirs = (module.ModelEMA(model_of()) for module in pair)
    model = model_of()
    with takes("ema", calls=20):
        for step in range(20):
            train_a_little(model, step)
            assert ours.update(model) is None
            theirs.update(model)
            assert same_averages(ours, theirs)
    assert ours.updates == theirs.updates == 20


def test_wrapped_models_are_unwrapped(pair: tuple[Any, Any]) -> None:
    ours, theirs = (module.ModelEMA(model_of()) for module in pair)
    wrapped = nn.DataParallel(model_of(1))
    ours.update(wrapped)
    theirs.update(wrapped)
    assert same_averages(ours, theirs)


class Wrapper(nn.DataParallel):
    pass


def test_subclasses_of_wrappers_are_unwrapped(ultralytics: tuple[Any, Any]) -> None:
    """The client's rule asks for an instance."""
    ours, theirs = (module.ModelEMA(model_of()) for module in ultralytics)
    for average in (ours, theirs):
        average.update(Wrapper(model_of(1)))
    assert same_averages(ours, theirs)


def test_average_that_is_switched_off(ultralytics: tuple[Any, Any]) -> None:
    average, before = ultralytics[0].ModelEMA(model_of()), model_of().state_dict()
    average.enabled = False
    average.update(model_of(1))
    assert average.updates == 0
    assert same_bits(average.ema.state_dict(), before)


def test_subclasses_of_wrappers_are_not_unwrapped(yolov5: tuple[Any, Any]) -> None:
    """The client's rule asks for the exact type; the keys then have a prefix and are missing."""
    for module in yolov5:
        with pytest.raises(KeyError, match="anchors"):
            module.ModelEMA(model_of()).update(Wrapper(model_of()))


def test_the_clients_own_helper_decides(patched: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    module = patched("6.1")
    average, inner = module.ModelEMA(model_of()), model_of(1)
    average.decay = lambda updates: 0.0
    monkeypatch.setattr(module, "de_parallel", lambda model: inner)
    average.update(model_of(2))
    assert same_bits(average.ema.state_dict(), inner.state_dict())


def test_updates_and_decay_are_read_every_time(pair: tuple[Any, Any]) -> None:
    averages = [module.ModelEMA(model_of()) for module in pair]
    model, seen = model_of(1), []
    for average in averages:
        average.update(model)
        average.updates = 4000  # as resuming does
        average.update(model)

        def decay(updates: int) -> float:
            seen.append(updates)
            return 0.25

        average.decay = decay
        average.update(model)
    assert seen == [4002, 4002]
    ours, theirs = averages
    assert same_averages(ours, theirs)


@pytest.mark.parametrize("missing", [True, False], ids=["missing key", "other shape"])
def test_an_error_changes_nothing(pair: tuple[Any, Any], missing: bool) -> None:
    average = pair[0].ModelEMA(model_of())
    before, model = deepcopy(average.ema.state_dict()), model_of(1)
    del model[2].weight
    if not missing:
        model[2].weight = nn.Parameter(torch.rand(7, 13, 1, 1))
    with pytest.raises(KeyError if missing else RuntimeError) as raised:
        average.update(model)
    assert not missing or raised.value.args == ("2.weight",)
    assert same_bits(average.ema.state_dict(), before)
    assert average.updates == 0


def test_subclasses_instances_and_copies_work(pair: tuple[Any, Any]) -> None:
    class Average(pair[0].ModelEMA):
        def update(self, model: nn.Module) -> None:
            super().update(model)

    average = Average(model_of())
    copied = deepcopy(average)
    average.update(model_of(1))
    copied.update(model_of(1))
    assert same_bits(average.ema.state_dict(), copied.ema.state_dict())
    assert set(vars(average)) - {"enabled"} == {"ema", "updates", "decay"}


def test_half_precision_average(pair: tuple[Any, Any]) -> None:
    ours, theirs = (module.ModelEMA(model_of()) for module in pair)
    for average in (ours, theirs):
        average.ema.half()
        average.update(model_of(1))
    assert same_averages(ours, theirs)


def test_what_c_refuses_runs_as_torch(pair: tuple[Any, Any]) -> None:
    """A state_dict hook that changes what is seen: both must see it."""

    def double(module: nn.Module, state: Any, prefix: str, metadata: Any) -> None:
        state[f"{prefix}bias"] = state[f"{prefix}bias"] * 2

    ours, theirs = (module.ModelEMA(model_of()) for module in pair)
    model = model_of(1)
    model[0]._register_state_dict_hook(double)
    ours.update(model)
    theirs.update(model)
    assert same_averages(ours, theirs)


def test_guard_of_6_2_stays_around_the_update(patched: Loader) -> None:
    average = patched("6.2").ModelEMA(model_of())
    seen = []

    def decay(updates: int) -> float:
        seen.append(torch.is_inference_mode_enabled())
        return 0.5

    average.decay = decay
    average.update(model_of(1))
    assert seen == [True]
    assert not any(value.is_inference() for value in average.ema.state_dict().values())


class Weights(nn.Module):
    def __init__(self, *tensors: torch.Tensor) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(tensor, requires_grad=False) for tensor in tensors
        )


def equal_results(ours: Any, theirs: Any) -> bool:
    return (
        type(ours) is type(theirs)
        and ours.dtype == theirs.dtype
        and ours.shape == theirs.shape
        and ours.device == theirs.device
        and ours.requires_grad == theirs.requires_grad
        and ours.is_inference() == theirs.is_inference()
        and (ours.item() == theirs.item() or (ours.isnan() and theirs.isnan()))
    )


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_sparsity_is_the_stock_sparsity(yolov5: tuple[Any, Any], mode: Any) -> None:
    model = model_of()
    with torch.no_grad():
        model[0].weight[model[0].weight.abs() < 0.1] = 0.0
        model[2].weight[0] = torch.nan
        model[2].weight[1] = -0.0
    with mode(), takes("sparsity"):
        ours, theirs = (module.sparsity(model) for module in yolov5)
    assert theirs.item() > 0.1
    assert equal_results(ours, theirs)


def test_zeros_add_up_as_the_release_does(yolov5: tuple[Any, Any]) -> None:
    """Above 2**24 a float32 sum loses single zeros, an int64 sum does not."""
    one = torch.zeros(1, dtype=torch.uint8)
    model = Weights(torch.zeros(2**24, dtype=torch.uint8), *(one.clone() for _ in range(5)))
    with takes("sparsity"):
        ours, theirs = (module.sparsity(model) for module in yolov5)
    assert (theirs.item() == 1.0) == identify(yolov5[0]).forms["sparsity"].exact
    assert equal_results(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_sparsity_under_another_default_dtype(yolov5: tuple[Any, Any], dtype: torch.dtype) -> None:
    model = Weights(*(torch.tensor([0.0, 1.0] * n) for n in range(1, 300, 7)))
    torch.set_default_dtype(dtype)
    ours, theirs = (module.sparsity(model) for module in yolov5)
    assert ours.dtype == dtype
    assert equal_results(ours, theirs)


def test_sparsity_of_nothing(yolov5: tuple[Any, Any]) -> None:
    assert_raise_alike(
        *(partial(module.sparsity, nn.ReLU()) for module in yolov5), kind=ZeroDivisionError
    )
    ours, theirs = (module.sparsity(Weights(torch.zeros(0))) for module in yolov5)
    assert math.isnan(theirs.item())
    assert equal_results(ours, theirs)
