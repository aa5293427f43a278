"""Modules that are not what they seem: names, dicts, attributes and methods that a walk through
__dict__ could take for something else than state_dict() and parameters() do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm

from yolov5_utils import _C, _native, reference
from yolov5_utils.ops.sparsity import sparsity

from ..support import Holder
from .outcomes import Pair, assert_like_original, in_child


def full(value: float, *shape: int) -> Tensor:
    return torch.full(shape or (3,), value)


def pair(make: Callable[[float], nn.Module]) -> Callable[[], Pair]:
    """A builder of two modules that `make` fills with different values."""

    def build() -> Pair:
        modules = []
        for value in (2.0, 10.0):
            torch.manual_seed(int(value))
            modules.append(make(value))
        return modules[0], modules[1]

    return build


def tree(**children: nn.Module) -> nn.Module:
    root = nn.Module()
    for name, child in children.items():
        root._modules[name] = child
    return root


def shared_submodule(value: float) -> nn.Module:
    child = nn.Linear(2, 2)
    return nn.Sequential(child, child, nn.Sequential(child))


def tied_weights(value: float) -> nn.Module:
    root = tree(a=nn.Linear(3, 3), b=nn.Linear(3, 3))
    root.b.weight = root.a.weight
    return root


def dotted_buffer(value: float) -> nn.Module:
    root = tree(a=Holder(full(value)))
    root._buffers["a.b0"] = full(value * 7)
    return root


def dotted_parameter(value: float) -> nn.Module:
    root = tree(a=Holder(full(value)))
    root._parameters["a.b0"] = nn.Parameter(full(value * 7))
    return root


def dotted_module(value: float) -> nn.Module:
    root = tree(a=tree(b=Holder(full(value))))
    root._modules["a.b"] = Holder(full(value * 3))
    return root


def one_name_in_both_dicts(value: float) -> nn.Module:
    root = Holder(full(value))
    root._parameters["b0"] = nn.Parameter(full(value * 5))
    return root


def empty_names(value: float) -> nn.Module:
    root = Holder()
    root._buffers[""] = full(value)
    root._modules[""] = Holder(full(value * 2))
    return root


def number_as_name(value: float) -> nn.Module:
    root = Holder(full(value))
    root._buffers[3] = full(value)  # type: ignore[index]
    return root


class Word(str):
    """A str that is not exactly one."""


def name_of_a_str_subclass(value: float) -> nn.Module:
    root = Holder()
    root._buffers[Word("word")] = full(value)
    return root


def none_entries(value: float) -> nn.Module:
    root = tree(a=Holder(full(value)), b=Holder())
    root._modules["none"] = None
    root.register_parameter("p", None)
    root.register_buffer("q", None)
    return root


class ListsHidden(nn.Module):
    """Keeps its names of non-persistent buffers in a list."""

    def __init__(self, value: float, container: type = list) -> None:
        super().__init__()
        self.register_buffer("shown", full(value))
        self.register_buffer("hidden", full(value))
        self._non_persistent_buffers_set = container(["hidden"])


class Filtered(dict):  # type: ignore[type-arg]
    """A dict that shows fewer entries than it holds."""

    def items(self) -> Any:
        return [(k, v) for k, v in super().items() if k != "hidden"]


def filtered_buffers(value: float) -> nn.Module:
    root = Holder(full(value))
    root.__dict__["_buffers"] = Filtered(hidden=full(value), shown=full(value * 2))
    return root


def filtered_modules(value: float) -> nn.Module:
    root = Holder(full(value))
    root.__dict__["_modules"] = Filtered(hidden=Holder(full(value)), shown=Holder(full(value)))
    return root


class PropertyBuffers(nn.Module):
    """Its _buffers are computed; what __dict__ holds under that name is something else."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.__dict__["_buffers"] = {"decoy": full(value)}
        self.__dict__["real"] = {"real": full(value)}

    @property
    def _buffers(self) -> dict[str, Tensor]:  # type: ignore[override]
        return self.__dict__["real"]

    @_buffers.setter
    def _buffers(self, value: dict[str, Tensor]) -> None: ...


class OwnGetattribute(nn.Module):
    """Answers every question about its parameters itself."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.__dict__["real"] = {"real": nn.Parameter(full(value))}
        self.__dict__["_parameters"] = {"decoy": nn.Parameter(torch.zeros(4))}

    def __getattribute__(self, name: str) -> Any:
        return super().__getattribute__("real" if name == "_parameters" else name)


class Greedy(nn.Linear):
    """Once built, has an answer for every attribute."""

    built = False

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if self.built:
                return 17
            raise


def greedy(value: float) -> nn.Module:
    layer = Greedy(2, 2)
    layer.built = True
    return nn.Sequential(layer)


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def parametrised(value: float) -> nn.Module:
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Scaled())
    return nn.Sequential(layer, weight_norm(nn.Conv2d(2, 2, 1)))


def pruned(value: float) -> nn.Module:
    layer = nn.Conv2d(2, 3, 3)
    prune.l1_unstructured(layer, "weight", 0.5)
    return nn.Sequential(layer)


def spectral(value: float) -> nn.Module:
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4)))


def parameter_containers(value: float) -> nn.Module:
    root = nn.Module()
    root.list = nn.ParameterList([full(value), nn.Parameter(full(value, 2))])
    root.dict = nn.ParameterDict({"x": full(value), "y": full(value, 1)})
    root.modules_ = nn.ModuleDict({"first": nn.Linear(1, 2), "second": nn.BatchNorm1d(2)})
    return root


BUILDERS = {
    make.__name__: pair(make)
    for make in (
        *(shared_submodule, tied_weights, dotted_buffer, dotted_parameter, dotted_module),
        *(one_name_in_both_dicts, empty_names, number_as_name, name_of_a_str_subclass),
        *(none_entries, ListsHidden, filtered_buffers, filtered_modules, PropertyBuffers),
        *(OwnGetattribute, greedy, parametrised, pruned, spectral, parameter_containers),
    )
}
BUILDERS["transformer"] = pair(lambda value: nn.TransformerEncoderLayer(8, 2, 8))
BUILDERS["recurrent"] = pair(lambda value: nn.LSTM(3, 4))
BUILDERS["hidden_in_frozenset"] = pair(lambda value: ListsHidden(value, frozenset))
BUILDERS["hidden_in_tuple"] = pair(lambda value: ListsHidden(value, tuple))


@pytest.mark.parametrize("name", BUILDERS)
def test_update(name: str) -> None:
    assert_like_original(BUILDERS[name])


@pytest.mark.parametrize("name", BUILDERS)
def test_sparsity(name: str) -> None:
    model, _ = BUILDERS[name]()
    if not list(model.parameters()):
        with pytest.raises(ZeroDivisionError):
            sparsity(model)
        return
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.view(-1)[::3] = 0
    assert torch.equal(sparsity(model), reference.sparsity(model))


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside_the_module"])
def test_source_with_dotted_name(beside: bool) -> None:
    """The key is there, though not where the average's tree has it."""

    def build() -> Pair:
        source = tree(a=nn.Module()) if beside else nn.Module()
        source._buffers["a.b0"] = full(10.0)
        return tree(a=Holder(full(2.0))), source

    assert assert_like_original(build).error is None


def test_source_with_one_name_in_both_dicts() -> None:
    """In a state dict the buffer, which comes later, takes the parameter's place."""
    assert_like_original(lambda: (Holder(full(2.0)), one_name_in_both_dicts(10.0)))


LONG_NAMES = [
    "n" * 120,
    "n" * 126,
    "n" * 300,
    "模" * 100,
    "e" + "ü" * 127,
    "nul\0nul",
    "lone\ud800",
]


@pytest.mark.parametrize("name", LONG_NAMES, ids=ascii)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_missing_key_in_full(name: str, depth: int) -> None:
    """KeyError carries the dotted key as state_dict spells it, however long or odd."""

    def build() -> Pair:
        root = inner = nn.Module()
        for _ in range(depth):
            inner._modules[name] = nn.Module()
            inner = inner._modules[name]
        inner._buffers[name] = full(1.0)
        return root, nn.Module()

    error = assert_like_original(build).error
    assert error is not None
    assert error[0] is KeyError


@pytest.mark.parametrize("name", LONG_NAMES, ids=ascii)
def test_refusal_of_odd_names(name: str) -> None:
    """A reason that does not fit, or cannot be spelled, is still only a reason."""

    def build() -> Pair:
        average, source = nn.Module(), nn.Module()
        average._buffers[name], source._buffers[name] = full(1.0, 2, 1), full(3.0, 2)
        return average, source

    assert_like_original(build)

    def build_type() -> Pair:
        kind = type(name.replace("\0", "0").replace("\ud800", "8"), (nn.Module,), {})
        modules = [kind(), kind()]
        for value, module in enumerate(modules):
            module._buffers["x"] = full(float(value))
            module._register_state_dict_hook(lambda *args: None)
        return tree(**{name: modules[0]}), tree(**{name: modules[1]})

    assert_like_original(build_type)


@pytest.mark.parametrize("where", ["", "inner"])
def test_hook_on_a_module_only_the_model_has(where: str) -> None:
    """A hook of a module that the average lacks may still rewrite the model's state."""

    def rewrite(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
        state["b0"] = full(100.0)

    def build() -> Pair:
        average, source = Holder(full(2.0)), Holder(full(10.0))
        extra: nn.Module = tree(inner=nn.Module())
        source.add_module("extra", extra)
        extra.get_submodule(where)._register_state_dict_hook(rewrite)
        return average, source

    assert_like_original(build)


def test_deep_tree() -> None:
    def build() -> Pair:
        modules = []
        for value in (2.0, 10.0):
            module: nn.Module = Holder(full(value))
            for _ in range(150):
                module = tree(m=module)
            modules.append(module)
        return modules[0], modules[1]

    assert assert_like_original(build).error is None


def root_that_pulls() -> nn.Module:
    """Tensors whose dtype is a property that pulls the module's dicts from under the walk."""

    class Pulls(Tensor):
        @property
        def dtype(self) -> torch.dtype:  # type: ignore[override]
            for kind in ("_parameters", "_buffers", "_modules"):
                root.__dict__[kind] = {}
            junk.append([dict.fromkeys(range(9)) for _ in range(200)])
            return torch.int64

    junk: list[Any] = []
    root = nn.Module()
    for i in range(40):
        root._buffers[f"b{i}"] = torch.ones(2).as_subclass(Pulls)
        root._modules[f"m{i}"] = Holder(full(1.0))
    return root


def test_dicts_pulled_from_under_the_walk() -> None:
    def pull() -> None:
        for _ in range(50):
            with suppress(_native.Unsupported, KeyError):
                _C.ema_update(root_that_pulls(), nn.Module(), 0.5)

    in_child(pull)


def test_cycle_without_a_limit() -> None:
    """However high the recursion limit, a cycle must not exhaust the C stack."""

    def cycle() -> None:
        root = Holder(full(1.0))
        root._modules["again"] = root
        sys.setrecursionlimit(10**6)
        with pytest.raises((RecursionError, _native.Unsupported)):
            _C.ema_update(root, root, 0.5)

    in_child(cycle)
