"""Whatever changes between two updates is seen by the next one, as by a full walk of both trees:
what an update keeps for the next one are hints, and no hint may show in a result."""

from __future__ import annotations

import copy
import gc
import random
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import nn

from yolov5_utils.torch_utils import ModelEMA

from ..support import takes
from .ema_models import Net, averaged, check, trained

C, TORCH = "C", "torch"


def fresh(like: torch.Tensor) -> torch.Tensor:
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(like.numel()))


def parameter(like: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(fresh(like), requires_grad=like.requires_grad)


class Named(nn.Conv2d):
    """Another class, nothing overridden."""


class Overriding(nn.Conv2d):
    def state_dict(self, *args, **kwargs):  # type: ignore[no-untyped-def, override]
        return super().state_dict(*args, **kwargs)


class Saving(nn.Conv2d):
    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore
        super()._save_to_state_dict(destination, prefix, keep_vars)


def set_data(m: Net) -> None:
    m.conv.weight.data = fresh(m.conv.weight)


def set_attribute(m: Net) -> None:
    m.head[2].weight = parameter(m.head[2].weight)


def set_entry(m: Net) -> None:
    m.bn._parameters["bias"] = parameter(m.bn.bias)


def set_parameters_dict(m: Net) -> None:
    m.conv.__dict__["_parameters"] = {k: parameter(p) for k, p in m.conv._parameters.items()}


def set_buffer(m: Net) -> None:
    m.register_buffer("anchors", fresh(m.anchors))


def set_buffer_entry(m: Net) -> None:
    m.bn._buffers["running_var"] = fresh(m.bn.running_var)


def set_buffers_dict(m: Net) -> None:
    m.bn.__dict__["_buffers"] = {k: v.clone() for k, v in reversed(m.bn._buffers.items())}


def replace_child(m: Net) -> None:
    m.conv = nn.Conv2d(3, 8, 3).requires_grad_(m.conv.weight.requires_grad)


def replace_in_list(m: Net) -> None:
    m.head[0] = nn.Conv2d(8, 4, 1).requires_grad_(m.conv.weight.requires_grad)


def replace_modules_dict(m: Net) -> None:
    m.__dict__["_modules"] = OrderedDict((k, copy.deepcopy(v)) for k, v in m._modules.items())


def swap_children(m: Net) -> None:
    other = copy.deepcopy(m.conv)
    other.weight.data.mul_(-2)
    m._modules["conv"], m.__dict__["spare"] = other, m.conv


def replace_dict(m: Net) -> None:
    m.conv.__dict__ = {**m.conv.__dict__, "_parameters": dict(m.conv._parameters)}
    m.conv._parameters["bias"] = parameter(m.conv.bias)


def replace_class(m: Net) -> None:
    m.conv.__class__ = Named
    m.conv.weight.data = fresh(m.conv.weight)


def hide(m: Net) -> None:
    m._non_persistent_buffers_set.symmetric_difference_update({"anchors"})


def replace_hidden(m: Net) -> None:
    m.__dict__["_non_persistent_buffers_set"] = set(m._non_persistent_buffers_set) | {"complex"}


def to_half(m: Net) -> None:
    m.half() if m.conv.weight.dtype is torch.float32 else m.float()


def load_assign(m: Net) -> None:
    state = {k: v.clone() + (k != "bn.num_batches_tracked") for k, v in m.state_dict().items()}
    m.load_state_dict(state, assign=True)
    m.requires_grad_(False)


def swap(m: Net) -> None:
    torch.utils.swap_tensors(m.bn.weight, parameter(m.bn.weight))


def set_storage(m: Net) -> None:
    with torch.no_grad():
        bias = m.head[2].bias
        bias.set_(fresh(bias).to(bias.dtype))


def other_strides(m: Net) -> None:
    m.conv.weight.data = m.conv.weight.data.to(memory_format=torch.channels_last)


def transposed(m: Net) -> None:
    m.head[2].weight.data = m.head[2].weight.data.t()


def to_double(m: Net) -> None:
    m.anchors = m.anchors.double() if m.anchors.dtype is torch.float32 else m.anchors.float()


def view_of_another(m: Net) -> None:
    m.bn.running_mean = torch.rand(20)[3:11]


def no_bias(m: Net) -> None:
    m.head[2].register_parameter("bias", None)


def buffer_to_parameter(m: Net) -> None:
    m.anchors = nn.Parameter(m.anchors, requires_grad=False)  # leaves _buffers for _parameters


def negated(m: Net) -> None:
    m.anchors = torch._neg_view(fresh(m.anchors))


def instance_override(m: Net) -> None:
    m.conv.state_dict = m.conv.state_dict  # type: ignore[method-assign]


def instance_saving(m: Net) -> None:
    m.bn._save_to_state_dict = m.bn._save_to_state_dict  # type: ignore[method-assign]


def class_override(m: Net) -> None:
    m.conv.__class__ = Overriding


def class_saving(m: Net) -> None:
    m.head[0].__class__ = Saving


def hook(m: Net) -> None:
    m.bn._register_state_dict_hook(lambda module, state, prefix, metadata: None)


def pre_hook(m: Net) -> None:
    m.head.register_state_dict_pre_hook(lambda module, prefix, keep_vars: None)


def subclass_data(m: Net) -> None:
    class Marked(torch.Tensor):
        pass

    m.anchors = m.anchors.as_subclass(Marked)


# The change, and the way the update takes with it.
PLAIN = [
    *(set_data, set_attribute, set_entry, set_parameters_dict, set_buffer, set_buffer_entry),
    *(set_buffers_dict, replace_child, replace_in_list, replace_modules_dict, swap_children),
    *(replace_dict, replace_class, to_half, load_assign, swap, set_storage, other_strides),
    *(transposed, to_double, view_of_another),
]
BY_TORCH = [
    *(negated, instance_override, instance_saving, class_override, class_saving, hook, pre_hook),
    subclass_data,
]


def settled(updates: int = 20) -> tuple[ModelEMA, Net]:
    """An average and its model after updates with hints: the first one keeps them."""
    model, ema = averaged(Net(1))
    for _ in range(updates):
        ema.update(trained(model))
    return ema, model


@pytest.mark.parametrize("side", ["average", "source", "both"])
@pytest.mark.parametrize("change", [*PLAIN, buffer_to_parameter])
def test_seen_at_once(change: Callable[[Net], None], side: str) -> None:
    ema, model = settled()
    for tree in {"average": [ema.ema], "source": [model], "both": [ema.ema, model]}[side]:
        change(tree)
    for _ in range(70):  # until the hints were kept anew
        check(ema, trained(model), C)


@pytest.mark.parametrize("side", ["average", "source"])
@pytest.mark.parametrize("change", BY_TORCH)
def test_left_to_torch_at_once(change: Callable[[Net], None], side: str) -> None:
    ema, model = settled()
    change(ema.ema if side == "average" else model)
    if change in (negated, subclass_data):  # neither can be copied and compared by bits
        with takes("ema", TORCH):
            ema.update(model)
        return
    for _ in range(3):
        check(ema, model, TORCH)


@pytest.mark.parametrize("change", [hide, replace_hidden, no_bias])
def test_entries_that_leave_both(change: Callable[[Net], None]) -> None:
    ema, model = settled()
    change(ema.ema)
    change(model)
    for _ in range(3):
        check(ema, trained(model), C)


@pytest.mark.parametrize("name", ["state_dict", "_save_to_state_dict", "get_extra_state"])
def test_methods_of_the_class_replaced(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ema, model = settled()
    own = getattr(nn.Module, name)
    if name == "get_extra_state":
        monkeypatch.setattr(nn.Linear, name, lambda self: torch.ones(1), raising=False)
        monkeypatch.setattr(nn.Linear, "set_extra_state", lambda self, state: None, raising=False)
    else:
        monkeypatch.setattr(
            nn.Linear, name, lambda self, *a, **k: own(self, *a, **k), raising=False
        )
    with takes("ema", TORCH):
        ema.update(model)
    monkeypatch.undo()
    check(ema, model, C)


def test_memory_shared_between_the_trees() -> None:
    ema, model = settled()
    ema.ema.conv.weight.data = model.conv.weight.data
    with takes("ema", TORCH):
        ema.update(model)


def test_lost_entry_and_wrong_shape() -> None:
    ema, model = settled()
    kept = model.head[2].weight
    model.head[2].weight = nn.Parameter(torch.rand(5, 3))
    with pytest.raises(RuntimeError):
        ema.update(model)
    del model.head[2].weight
    with pytest.raises(KeyError, match="head.2.weight"):
        ema.update(model)
    model.head[2].weight = kept
    check(ema, trained(model), C)


def test_freed_trees_and_new_ones_in_their_place() -> None:
    for round in range(30):
        ema, model = settled(2)
        check(ema, trained(model, round), C)
        del ema, model
        if round % 7 == 0:
            gc.collect()


def test_two_averages_in_turn() -> None:
    first, model = settled()
    second, other = ModelEMA(model), Net(5)
    for step in range(40):
        check((first, second)[step % 2], trained((model, other)[step % 3 == 0], step), C)


def test_an_update_inside_an_update() -> None:
    """Python code in the walk, here a metaclass's, updates another average."""
    inner, inner_model = settled(3)
    running = []

    class Meta(type):
        def __getattribute__(cls, name: str) -> object:
            if name == "state_dict" and running == ["outer"]:
                running.append("inner")
                inner.update(inner_model)
                running.pop()
            return super().__getattribute__(name)

    class Odd(nn.Conv2d, metaclass=Meta):
        pass

    ema, model = settled(3)
    model.conv.__class__ = Odd
    for step in range(20):
        running[:] = ["outer"]
        check(ema, trained(model, step), C)
    running.clear()


def test_random_sequences() -> None:
    choice = random.Random(0)
    for _ in range(12):
        ema, model = settled(2)
        for step in range(40):
            for _ in range(choice.choice((0, 0, 1, 1, 3))):
                choice.choice(PLAIN)(choice.choice((ema.ema, model)))
            check(ema, trained(model, step), C)
