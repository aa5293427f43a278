"""fuse_model in several threads, and interrupted: whatever happens between two of its instructions,
each module has its pair or the fused convolution, and computes the same."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from yolov5_utils import fuse_model
from yolov5_utils.ops import fuse_model as file

from ..support import in_threads
from .stepping import Interrupt, interrupt, with_action_at


class Conv(nn.Module):
    """A module whose fused convolution has the weight 6; fused twice, it would be 18."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=0.0)
        nn.init.constant_(self.conv.weight, 2)
        nn.init.constant_(self.bn.weight, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    def forward_fuse(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Watched(Conv):
    """Its attributes are set by the module itself."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)


class Deleting(Conv):
    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    sys.setswitchinterval(1e-6)
    with torch.no_grad():
        yield


def model_of(*kinds: type[Conv], channels: int = 1) -> nn.Sequential:
    return nn.Sequential(*(kind(channels) for kind in kinds)).eval().requires_grad_(False)


def is_fused(module: Any) -> bool:
    """Whether the pair was fused, once; fails for anything between."""
    if "bn" in module._modules:
        assert module.conv.bias is None
        assert module.conv.weight[0, 0].item() == 2
        assert "forward" not in module.__dict__
        return False
    assert module.conv.weight[0, 0].item() == 6
    assert module.conv.bias is not None
    assert module.forward == module.forward_fuse
    assert list(module._modules) == ["conv"]
    return True


def without_grad(call: Callable[[], Any]) -> Callable[[], Any]:
    """Grad mode is the thread's own."""

    def run() -> Any:
        with torch.no_grad():
            return call()

    return run


def steps(call: Callable[[Any], Any], action: Callable[[Any], Any], *kinds: type[Conv]) -> None:
    """For each instruction of fuse_model a new model, on which the action runs there."""
    step, ran = 0, True
    while ran:
        model = model_of(*kinds)
        ran = with_action_at(step, partial(action, model), partial(call, model))
        assert all(map(is_fused, model)), step
        step += 1
    assert step > 200


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [(Conv, Conv), (Watched,), (Deleting,)], ids=str)
def test_another_call_at_every_instruction(kinds: tuple[type[Conv], ...]) -> None:
    """Whether a thread's, or one of the same thread, as of a signal handler."""
    raised: list[BaseException] = []

    def other(model: nn.Module) -> None:
        try:
            with torch.no_grad():
                fuse_model(model)
        except BaseException as error:
            raised.append(error)

    def in_another_thread(model: Any) -> None:
        in_threads(lambda: other(model))
        if Watched not in kinds and Deleting not in kinds:
            assert all(map(is_fused, model))  # the other call leaves nothing to this one

    steps(fuse_model, in_another_thread, *kinds)
    if kinds == (Conv, Conv):
        steps(fuse_model, other, *kinds)
    assert not raised


def test_predictions_at_every_instruction() -> None:
    """No instruction lies between one state of a module and the other."""
    x, found = torch.tensor([[[[7.0]]]]), set()
    steps(fuse_model, lambda model: found.add(model(x).item()), Conv, Conv)
    assert found == {7.0 * 36}


@pytest.mark.parametrize("kind", [Conv, Watched])
def test_interrupted_at_every_instruction(kind: type[Conv]) -> None:
    x, seen, step, ran = torch.tensor([[[[7.0]]]]), set(), 0, True
    while ran:
        model = model_of(kind, kind)
        try:
            ran = with_action_at(step, interrupt, partial(fuse_model, model))
        except Interrupt:
            ran = True
        if kind is Conv:
            seen.add(tuple(map(is_fused, model)))
            assert model(x).item() == 7.0 * 36
        fuse_model(model)
        assert kind is Watched or all(map(is_fused, model))
        step += 1
    assert kind is Watched or seen == {(False, False), (True, False), (True, True)}


def test_changes_made_meanwhile_stay() -> None:
    """Another call, after which that thread changes the module: nothing of it is taken back."""

    def fuse_and_change(model: Any) -> None:
        fuse_model(model)
        model[0].more = nn.Identity()
        model[0].conv.weight.mul_(2)

    step, ran = 0, True
    while ran:
        model = model_of(Conv)
        action = partial(in_threads, without_grad(partial(fuse_and_change, model)))
        ran = with_action_at(step, action, partial(fuse_model, model))
        if ran:
            assert list(model[0]._modules) == ["conv", "more"], step
            assert model[0].conv.weight.item() == 12
        step += 1


class Switching(dict):
    """The children of a module, whose look-ups let another call of fuse_model run."""

    action: Callable[[], None] | None = None

    def get(self, *args: Any) -> Any:
        found = super().get(*args)
        action, Switching.action = Switching.action, None
        if action is not None:
            action()
        return found


def test_children_of_a_kind_of_their_own() -> None:
    model = model_of(Conv)
    model[0].__dict__["_modules"] = Switching(model[0]._modules)
    Switching.action = partial(in_threads, without_grad(lambda: fuse_model(model)))
    fuse_model(model)
    assert is_fused(model[0])
    assert Switching.action is None


def many_threads(model: Any, count: int, work: Callable[[], Any]) -> list[BaseException]:
    raised: list[BaseException] = []
    start = threading.Barrier(count)

    def run() -> None:
        start.wait()
        try:
            work()
        except BaseException as error:
            raised.append(error)

    in_threads(*[run] * count)
    return raised


@pytest.mark.parametrize("kinds", [(Conv,), (Watched,), (Conv, Watched, Deleting)], ids=str)
def test_many_threads(kinds: tuple[type[Conv], ...]) -> None:
    for channels in (1, 8) * 15:
        model = model_of(*kinds * (12 // len(kinds)), channels=channels)
        assert many_threads(model, 4, without_grad(partial(fuse_model, model))) == []
        assert all(map(is_fused, model))


def test_each_thread_predicts_at_once() -> None:
    """As those of a server do; meanwhile one of them walks over the modules and reads the state."""
    for _ in range(30):
        model, x = model_of(*[Conv] * 8), torch.ones(1, 1, 1, 1)
        turn = iter(range(4))
        found: list[float] = []

        def serve(model: Any = model, x: Any = x, turn: Any = turn, found: Any = found) -> None:
            if next(turn) == 0:
                for _ in range(20):
                    assert len(list(model.modules())) in range(17, 26)
                    model.state_dict()
            fuse_model(model)
            assert all(map(is_fused, model))
            found.append(model(x).item())

        assert many_threads(model, 4, without_grad(serve)) == []
        assert found == [6.0**8] * 4


def test_a_setter_that_raises_leaves_the_pair() -> None:
    class Refusing(Conv):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "conv" and getattr(value, "bias", None) is not None:
                raise ValueError("not this one")
            super().__setattr__(name, value)

    model = model_of(Refusing)
    with pytest.raises(ValueError, match="not this one"):
        fuse_model(model)
    assert not is_fused(model[0])
    assert model(torch.ones(1, 1, 1, 1)).item() == 6


def test_a_deleter_that_raises() -> None:
    class Keeping(Conv):
        def __delattr__(self, name: str) -> None:
            raise AttributeError("it stays")

    model = model_of(Keeping)
    with pytest.raises(AttributeError, match="it stays"):
        fuse_model(model)
    assert not is_fused(model[0])


def test_registration_hooks_and_threads() -> None:
    hook = torch_module.register_module_module_registration_hook(lambda *_: None)
    try:
        for _ in range(10):
            model = model_of(*[Conv] * 12)
            assert many_threads(model, 4, without_grad(partial(fuse_model, model))) == []
            assert all(map(is_fused, model))
    finally:
        hook.remove()


def test_scripted_modules_are_passed_by() -> None:
    model = model_of(Conv, Conv)
    model.append(torch.jit.script(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).eval()))
    fuse_model(model)
    assert all(map(is_fused, model[:2]))


@pytest.mark.parametrize("put", [file._exchange, file._set])
@pytest.mark.parametrize("name", ["conv", "bn"])
def test_a_pair_that_is_another_by_now(put: Callable[..., None], name: str) -> None:
    model = model_of(Conv)
    (pair,) = file.fusable(model)
    setattr(model[0], name, getattr(model_of(Conv)[0], name))
    put(pair, nn.Conv2d(1, 1, 1))
    assert not is_fused(model[0])


def test_the_step_looks_itself() -> None:
    """A module whose children were exchanged is left as it is, a changed copy is not put there."""
    model = model_of(Conv)
    (pair,) = file.fusable(model)
    children = model[0]._modules
    model[0].__dict__["_modules"] = dict(children)
    file._exchange(pair, nn.Conv2d(1, 1, 1))
    assert "bn" not in model[0]._modules
    assert "bn" in children
    file._exchange(pair, nn.Conv2d(1, 2, 1))
    assert model[0].conv.out_channels == 1
