"""What C leaves to torch in ModelEMA, and what is an error: with the original's exception, and with
nothing changed."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolov5_utils import _C
from yolov5_utils.torch_utils import ModelEMA

from ..support import assert_same_bits, original, takes
from .ema_models import Net, assert_state, averaged, check, fails, trained
from .test_scale_img_ways import WatchDispatch


@pytest.mark.parametrize("key", ["bn.running_var", "head.2.bias", "anchors"])
def test_missing_entry(key: str) -> None:
    model, ema = averaged()
    module, _, name = key.rpartition(".")
    delattr(model.get_submodule(module), name)
    with pytest.raises(KeyError) as raised:
        original(copy.deepcopy(ema.ema), model, 0.5)
    fails(ema, model, KeyError, key)
    with pytest.raises(KeyError) as ours:
        ema.update(model)
    assert ours.value.args == raised.value.args == (key,)


WRONG: dict[str, tuple[Callable[[Any, Any], object], type[Exception], str]] = {
    "a missing module": (
        lambda model, average: model.head.__delitem__(2),
        *(KeyError, r"head\.2\.weight"),
    ),
    "not persistent in the model": (
        lambda model, average: model._non_persistent_buffers_set.add("anchors"),
        *(KeyError, "anchors"),
    ),
    "shapes that differ": (
        lambda model, average: setattr(model.head[2], "bias", nn.Parameter(torch.ones(5))),
        *(RuntimeError, "must match"),
    ),
    "an average that is too small": (
        lambda model, average: setattr(average.head[2], "bias", nn.Parameter(torch.ones(1), False)),
        *(RuntimeError, "broadcast"),
    ),
    "an expanded average": (
        lambda model, average: setattr(average, "anchors", torch.ones(1, 2).expand(3, 2)),
        *(RuntimeError, "single memory location"),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_entries(case: str) -> None:
    change, error, match = WRONG[case]
    model, ema = averaged()
    change(model, ema.ema)
    fails(ema, model, error, match)


def test_missing_counter_is_no_error() -> None:
    model, ema = averaged()
    model.bn.num_batches_tracked = None
    check(ema, trained(model))


def test_shape_that_broadcasts_does_so() -> None:
    model, ema = averaged()
    model.head[2].bias = nn.Parameter(torch.ones(1))
    check(ema, model, way="torch")


def test_float8_is_refused_as_torch_refuses_it() -> None:
    model, ema = averaged()
    ema.ema.anchors = ema.ema.anchors.to(torch.float8_e4m3fn)
    fails(ema, model, NotImplementedError, "not implemented for 'Float8_e4m3fn'")


def test_average_that_is_the_model() -> None:
    model, ema = averaged()
    ema.ema.conv.weight = model.conv.weight
    expected, expected_model = copy.deepcopy((ema.ema, model))
    original(expected, expected_model, ema.decay(1))
    with takes("ema", "torch"):
        ema.update(model)
    assert_state(ema.ema, expected.state_dict())
    assert_state(model, expected_model.state_dict())


def test_average_that_overlaps_the_model() -> None:
    model, ema = averaged()
    block = torch.rand(20)
    model.register_buffer("block", block[:12])
    ema.ema.register_buffer("block", block[8:])
    twin_block = block.clone()
    twin = Net()
    twin.load_state_dict(ema.ema.state_dict(), strict=False)
    twin.register_buffer("block", twin_block[8:])
    twin_model = copy.deepcopy(model)
    twin_model.block = twin_block[:12]
    original(twin, twin_model, ema.decay(1))
    with takes("ema", "torch"):
        ema.update(model)
    assert_same_bits(block, twin_block)


def add_hook(module: nn.Module) -> None:
    module._register_state_dict_hook(lambda m, state, prefix, meta: None)


def add_pre_hook(module: nn.Module) -> None:
    module.register_state_dict_pre_hook(lambda m, prefix, keep_vars: None)


def add_instance_method(module: nn.Module) -> None:
    inner = module.state_dict
    module.state_dict = lambda *a, **k: inner(*a, **k)


@pytest.mark.parametrize("change", [add_hook, add_pre_hook, add_instance_method])
@pytest.mark.parametrize("side", ["ema", "model"])
@pytest.mark.parametrize("where", ["", "head.2"])
def test_modules_with_a_state_of_their_own(change: Any, side: str, where: str) -> None:
    model, ema = averaged()
    change((ema.ema if side == "ema" else model).get_submodule(where))
    check(ema, trained(model), way="torch")


def test_overridden_state_dict() -> None:
    class Renamed(nn.Linear):
        def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            state = super().state_dict(*args, **kwargs)
            prefix = kwargs.get("prefix", "")
            state[prefix + "kernel"] = state.pop(prefix + "weight")
            return state

    model = nn.Sequential(Renamed(3, 3))
    check(ModelEMA(model), trained(model), way="torch")


def test_extra_state() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Tensor:
            return torch.ones(2)

        def set_extra_state(self, state: Tensor) -> None: ...

    model = nn.Sequential(Extra(3, 3))
    check(ModelEMA(model), trained(model), way="torch")

    class Dictionary(Extra):
        def get_extra_state(self) -> Any:
            return {}

    model = nn.Sequential(Dictionary(3, 3))
    fails(ModelEMA(model), model, AttributeError, "dtype")


def test_quantised_and_sparse_entries() -> None:
    model = Net()
    model.register_buffer("q", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
    model.register_buffer("indices", torch.eye(3, dtype=torch.int64).to_sparse())
    ema = ModelEMA(model)
    check(ema, trained_dense(model))
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    ema = ModelEMA(model)
    ema.decay = lambda x: 0.5
    model.sparse = (torch.eye(3) * 3).to_sparse()
    expected = copy.deepcopy(ema.ema)
    original(expected, model, 0.5)
    check(ema, trained_dense(model, 2), way="torch")
    assert torch.equal(ema.ema.sparse.to_dense(), expected.sparse.to_dense())


def trained_dense(model: nn.Module, seed: int = 1) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(seed)
    return model


def test_parameter_subclass() -> None:
    class Special(nn.Parameter):
        pass

    model = Net()
    model.head[2].weight = Special(torch.rand(4, 4))
    check(ModelEMA(model), trained(model), way="torch")


def test_ordered_dicts_of_older_torch() -> None:
    model, ema = averaged()
    for module in [*ema.ema.modules(), *model.modules()]:
        for name in ("_parameters", "_buffers", "_modules"):
            module.__dict__[name] = OrderedDict(module.__dict__[name])
    check(ema, trained(model))


def test_cyclic_tree() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    ema = ModelEMA(model)
    ema.ema.add_module("loop", ema.ema)
    model.add_module("loop", model)
    with pytest.raises(RecursionError):
        ema.update(model)


def test_flushed_subnormals() -> None:
    model, ema = averaged()
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    check(ema, trained(model), way="torch")


def test_modes_see_the_operations() -> None:
    model, ema = averaged()
    with WatchDispatch() as watch:
        check(ema, trained(model), way="torch")
    assert watch.seen


def test_refused_beside_open_questions(way_to_memory: str) -> None:
    """An entry that torch does not describe, behind one whose sign is asked: no endless look."""
    model = Net()
    model.scale = nn.Parameter(torch.ones(1))
    model.register_buffer("q", torch.eye(3).to_sparse())
    ema = ModelEMA(model)
    check(ema, model, way="torch")


def test_a_refusal_names_the_whole_key() -> None:
    average, source = (nn.Sequential(nn.Sequential(nn.Linear(2, size))) for size in (2, 5))
    with pytest.raises(_C.Unsupported, match=r"^0\.0\.weight: shapes differ$"):
        _C.ema_update(average, source, 0.5)
