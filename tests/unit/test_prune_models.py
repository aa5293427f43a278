"""prune on models: what torch's own pruning leaves behind, its errors, what it must not touch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from yolov5_utils import _C, reference
from yolov5_utils.ops import prune as ops_prune
from yolov5_utils.ops.prune import prune_layers
from yolov5_utils.torch_utils import prune

from ..support import FLOATING, assert_raise_alike, assert_same_bits, takes


def distinct(shape: torch.Size, seed: int) -> Tensor:
    """Values of different magnitudes in every floating type: neighbours in bfloat16."""
    count = shape.numel()
    assert count < 2000
    generator = torch.Generator().manual_seed(seed)
    bits = 0x3C00 + torch.randperm(count, generator=generator)
    bits[torch.rand(count, generator=generator) < 0.5] -= 0x8000
    return bits.to(torch.int16).view(torch.bfloat16).float().view(shape)


def small_model(seed: int = 0) -> nn.Sequential:
    """Layers with and without bias, of which one weight is frozen and one has a gradient."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.Sequential(nn.Conv2d(16, 8, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=2)),
        nn.ConvTranspose2d(8, 4, 2),
        nn.Conv1d(4, 4, 3),
        nn.Linear(4, 4),
        nn.Conv2d(8, 240, 1),
    )
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(distinct(parameter.shape, seed + i))
    model[2][0].weight.requires_grad_(False)
    model[0].weight.grad = torch.full_like(model[0].weight, 5)
    return model


def tied_values(model: nn.Module) -> nn.Module:
    """The model with weights of few magnitudes, so that most thresholds are ambiguous."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            small = torch.randint(-3, 4, parameter.shape, generator=generator)
            parameter.copy_(small + 0.5)
    return model


def every_parameter(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters, tied ones under each name, which torch before 2.0 does not list."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield f"{prefix}.{name}".lstrip("."), parameter


def describe(model: nn.Module) -> list[object]:
    """Everything pruning could leave behind, apart from values and addresses."""
    found: list[object] = []
    for name, module in model.named_modules():
        found += [name, type(module), sorted(module.__dict__), len(module._forward_pre_hooks)]
        found += [list(module._parameters), list(module._buffers)]
    for name, parameter in every_parameter(model):
        found += [name, type(parameter), parameter.shape, parameter.stride(), parameter.dtype]
        found += [parameter.requires_grad, parameter.is_leaf]
        found.append(list(parameter.__dict__))
    return found


def check(
    model: nn.Module,
    amount: object = 0.3,
    ties: str = "position",
    way: str = "C",
    theirs: nn.Module | None = None,
) -> nn.Module:
    """Prune the model and, as torch does, a copy: bits and everything else must agree."""
    theirs = copy.deepcopy(model) if theirs is None else theirs
    reference.prune_layers(theirs, amount)
    objects = dict(every_parameter(model))
    grads = {name: parameter.grad for name, parameter in objects.items()}
    layers = {n for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, nn.Conv2d)}
    addresses = {name: parameter.data_ptr() for name, parameter in objects.items()}
    versions = {name: parameter._version for name, parameter in objects.items()}
    held = [parameter.data for parameter in objects.values()]  # so that no address is used again
    with takes("prune", way):
        prune_layers(model, amount, ties=ties)
    assert describe(model) == describe(theirs)
    state = theirs.state_dict()
    assert list(model.state_dict()) == list(state)
    for name, parameter in every_parameter(model):
        assert_same_bits(parameter.data, state[name])
        if name not in objects:  # was "weight_orig" under a mask
            continue
        assert parameter is objects[name]
        assert parameter.grad is grads[name]
        assert parameter._version == versions[name]  # torch's pruning does not count as a write
        layer, _, last = name.rpartition(".")
        if way == "C" and layer in layers and last == "weight":
            assert parameter.data_ptr() != addresses[name]
        elif layer not in layers or last != "weight":
            assert parameter.data_ptr() == addresses[name]
    del held
    return model


def snapshot(model: nn.Module) -> tuple[list[object], dict[str, Tensor], dict[str, int]]:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    addresses = {name: value.data_ptr() for name, value in model.state_dict().items()}
    return describe(model), state, addresses


def assert_untouched(model: nn.Module, before: tuple) -> None:
    described, state, addresses = before
    assert describe(model) == described
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == addresses
    for name, value in model.state_dict().items():
        assert_same_bits(value, state[name])


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_as_torch_leaves_it(level: str, threads: int, dtype: torch.dtype) -> None:
    check(small_model().to(dtype))
    with torch.no_grad():
        check(small_model().to(dtype))


def test_bias_comes_first_then(level: str) -> None:
    model = check(nn.Sequential(nn.Conv2d(3, 4, 1)))
    assert list(model.state_dict()) == ["0.bias", "0.weight"]


@pytest.mark.parametrize("batch", [1, 3000, 1 << 30])
def test_any_batch(monkeypatch: pytest.MonkeyPatch, threads: int, batch: int) -> None:
    monkeypatch.setattr(ops_prune, "_BATCH_BYTES", batch)
    monkeypatch.setattr(ops_prune, "_SHARED_BATCH_BYTES", batch)
    check(small_model(3))
    check(tied_values(small_model()), ties="torch")


@pytest.mark.parametrize(
    "amount",
    [
        *(0, 1, 7, 0.0, 1.0, 0.5, 0.123, 1e-9, -0.0, 5e-324),
        *(np.float32(0.3), np.float64(0.3), np.int64(5)),
    ],
    ids=repr,
)
def test_amounts(amount: object) -> None:
    check(small_model(), amount)


@pytest.mark.parametrize("amount", [False, Fraction(1, 3)], ids=repr)
def test_amounts_that_torch_judges(amount: object) -> None:
    check(small_model(), amount, way="torch")


@pytest.mark.parametrize(("numel", "kept"), [(5, 3), (15, 7), (25, 13), (35, 17)])
def test_half_rounds_to_even(numel: int, kept: int) -> None:
    """1.5 to 2, 2.5 to 2, as Python's round."""
    model = nn.Conv2d(1, numel, 1)
    prune_layers(model, 0.5)
    assert int(torch.count_nonzero(model.weight)) == kept


WRONG_AMOUNTS = [-0.1, 1.5, float("inf"), float("nan"), -1, 65, 10**30, True, "0.3", None, [0.3]]


@pytest.mark.parametrize("amount", [*WRONG_AMOUNTS, torch.tensor(0.3), 1j], ids=repr)
def test_wrong_amounts(amount: object) -> None:
    """torch's exception and text, and not one layer changed."""
    model = nn.Sequential(nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 1))
    before, theirs = snapshot(model), copy.deepcopy(model)
    assert_raise_alike(
        lambda: reference.prune_layers(theirs, amount), lambda: prune_layers(model, amount)
    )
    assert_untouched(model, before)


def test_no_layers_need_no_amount() -> None:
    prune_layers(nn.Linear(3, 3), "anything")
    reference.prune_layers(nn.Linear(3, 3), "anything")


@pytest.mark.parametrize("ties", ["first", None, "Torch"])
def test_wrong_ties(ties: object) -> None:
    model = small_model()
    before = snapshot(model)
    with pytest.raises(ValueError, match="allowed are 'position', 'torch'"):
        prune(model, 0.3, ties=ties)
    with pytest.raises(TypeError):
        prune(model, 0.3, "torch")
    assert_untouched(model, before)


def test_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert prune(small_model()) is None
    share = float(reference.sparsity(check(small_model())))
    assert capsys.readouterr().out == f"Pruning model...  {share:.3g} global sparsity\n"


def test_output_starts_before_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="amount=2.0"):
        prune(small_model(), 2.0)
    assert capsys.readouterr().out == "Pruning model... "
    with pytest.raises(ZeroDivisionError):
        prune(nn.ReLU())


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("make", [lambda m: tied_values(m), lambda m: m.half()])
def test_ties_as_torch_has_them(
    level: str, threads: int, make: Callable, dtype: torch.dtype
) -> None:
    check(make(small_model()).to(dtype), ties="torch")
    check(make(small_model()).to(dtype), 7, ties="torch")


def test_position_prunes_the_first_of_equals(level: str) -> None:
    model = nn.Conv2d(10, 10, 1)
    nn.init.constant_(model.weight, -2.0)
    prune_layers(model, 0.3)
    assert (model.weight.view(-1)[:30] == 0).all()
    assert model.weight.view(-1)[:30].signbit().all()
    assert (model.weight.view(-1)[30:] == -2).all()


def test_not_finite(level: str, rounds: Callable[[int], range]) -> None:
    model = nn.Conv2d(4, 5, 1, bias=False)
    special = [float("inf"), float("-inf"), float("nan"), 1.0, -1.0, 0.0, -0.0, 1e-40, -1e-40, 3e38]
    for seed in rounds(20):
        order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
        model.weight.data = torch.tensor(special * 2)[order].view(5, 4, 1, 1)
        for amount in (0.1, 0.5, 0.75, 0.9, 1.0):
            check(copy.deepcopy(model), amount, ties="torch")


def test_pruning_again(level: str) -> None:
    """The zeros go first; which of them makes no difference, so no tie needs torch."""
    model = check(small_model(), 0.5)
    check(model, 0.5)
    check(model, 0.2)
    check(model, 0.8)


def test_shared_modules_and_tied_weights(threads: int) -> None:
    conv, other, third = (nn.Conv2d(6, 6, 3) for _ in range(3))
    other.weight = conv.weight
    model = nn.ModuleList([conv, conv, other, third])
    check(model)
    with torch.no_grad():
        conv.weight.view(-1)[:200] = float("inf")  # pruned a second time, other ones become NaN
    check(model, 0.6, ties="torch")


def test_memory_seen_from_elsewhere_stays() -> None:
    base = distinct(torch.Size((8, 4, 1, 1)), 0)
    conv = nn.Conv2d(4, 8, 1)
    conv.weight = nn.Parameter(base)
    before = base.clone()
    check(conv)
    assert_same_bits(base, before)


class OwnParameter(nn.Parameter):
    pass


class Own(nn.Conv2d):
    """A subclass that changes nothing pruning needs."""


class Watching(nn.Conv2d):
    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        super().register_parameter(name, param)


def channels_last(conv: nn.Module) -> None:
    conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)


def computed(conv: nn.Module) -> None:
    with torch.no_grad():
        weight = nn.Parameter(torch.empty_like(conv.weight), requires_grad=False)
    weight.copy_(torch.ones_like(weight).requires_grad_() * 2)  # as a fused convolution's
    conv._parameters["weight"] = weight


def two_hooks(conv: nn.Module) -> None:
    torch_prune.random_unstructured(conv, "weight", 0.1)
    conv.register_forward_pre_hook(next(iter(conv._forward_pre_hooks.values())))


# What is done to a model, by what C, torch and nobody can do with it then.
Changes = dict[str, Callable[[Any], object]]
HARMLESS: Changes = {
    "channels last, 1x1": lambda model: channels_last(model[6]),
    "hook": lambda model: model[0].register_forward_pre_hook(lambda module, args: None),
    "subclass of the module": lambda model: model.append(Own(3, 4, 3)),
}
REFUSED: Changes = {
    "mask": lambda model: torch_prune.random_unstructured(model[0], "weight", 0.1),
    "mask on the bias": lambda model: torch_prune.l1_unstructured(model[2][0], "bias", 0.5),
    "overridden method": lambda model: model.append(Watching(3, 4, 3)),
    "gaps": lambda model: setattr(
        model[0], "weight", nn.Parameter(torch.rand(16, 3, 3, 6)[..., ::2])
    ),
    "subclass": lambda model: setattr(model[0], "weight", OwnParameter(model[0].weight.data)),
    "buffer of that name": lambda model: model[2][2].register_buffer("weight_mask", torch.ones(3)),
}
# The layer at fault is not the first one.
BROKEN: Changes = {
    "channels last, 3x3": lambda model: channels_last(model[2][2]),
    "computed": lambda model: computed(model[2][2]),
    "name taken": lambda model: setattr(model[2][2], "weight_orig", 1),
    "two hooks": lambda model: two_hooks(model[2][2]),
}


def changed(change: Callable[[Any], object]) -> nn.Module:
    """The small model after a change; the same each time."""
    torch.manual_seed(0)
    model = small_model()
    change(model)
    return model


@pytest.mark.parametrize("case", HARMLESS)
def test_runs_in_c(case: str) -> None:
    check(changed(HARMLESS[case]))


@pytest.mark.parametrize("case", REFUSED)
def test_as_torch_where_c_refuses(case: str) -> None:
    check(changed(REFUSED[case]), way="torch", theirs=changed(REFUSED[case]))


@pytest.mark.parametrize("case", BROKEN)
def test_torchs_errors_leave_everything_untouched(case: str) -> None:
    """None of the layers is changed."""
    model, theirs = changed(BROKEN[case]), changed(BROKEN[case])
    before = snapshot(model)
    with pytest.raises(Exception) as original:  # noqa: PT011
        reference.prune_layers(theirs, 0.3)
    with pytest.raises(original.type) as ours:
        prune_layers(model, 0.3)
    assert str(ours.value).splitlines()[0] == str(original.value).splitlines()[0]
    assert_untouched(model, before)


@pytest.fixture
def registration_hook() -> Iterator[None]:
    handle = nn.modules.module.register_module_parameter_registration_hook(lambda m, n, p: None)
    yield
    handle.remove()


def test_registration_hooks(registration_hook: None) -> None:
    check(small_model(), way="torch")


def test_meta_tensors() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with takes("prune", "torch"):
        prune_layers(model, 0.3)


@pytest.mark.parametrize("where", ["class", "instance", "submodule"])
def test_a_models_own_named_modules_are_asked_once(where: str) -> None:
    """As the original goes over a model."""
    asked = []

    def last(*_: Any, **__: Any) -> Iterator[tuple[str, nn.Module]]:
        asked.append(where)
        return iter([("1", layers[1])])

    class Last(nn.Sequential):
        pass

    layers = Last(nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3))
    if where == "class":
        Last.named_modules = last  # type: ignore[assignment, method-assign]
    else:
        layers.named_modules = last  # type: ignore[assignment, method-assign]
    prune_layers(nn.Sequential(layers) if where == "submodule" else layers, 0.5)
    assert asked == [where]
    assert (layers[0].weight != 0).all()
    assert (layers[1].weight == 0).sum() == 54


def test_what_is_no_module_raises_as_in_the_original() -> None:
    for model in ([nn.Conv2d(3, 4, 3)], {}, None, "yolov5s.pt", nn.Conv2d):
        with pytest.raises((AttributeError, TypeError), match="named_modules"):
            prune_layers(model, 0.5)  # type: ignore[arg-type]


def test_levels_agree_on_a_model() -> None:
    results = []
    for level in _C.info()["levels_found"]:
        _C.configure(level=level)
        results.append(check(small_model()).state_dict())
    for other in results[1:]:
        for name, value in other.items():
            assert_same_bits(value, results[0][name])
