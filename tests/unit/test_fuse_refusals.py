"""fuse_conv_and_bn where C refuses: the original's exceptions for wrong inputs, and torch's own
operations for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from yolov5_utils import _C, _native
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.ops import fuse as fuse_file
from yolov5_utils.torch_utils import fuse_conv_and_bn

from ..support import takes
from .test_fuse import OwnConv, check, check_in_torch, original, pair, snapshot


def raises_like(error: type[Exception], conv: Any, bn: Any) -> None:
    modules = [m for m in (conv, bn) if isinstance(m, nn.Module)]
    before = snapshot(*modules)
    with pytest.raises(error):
        original(conv, bn)
    with pytest.raises(error):
        fuse_conv_and_bn(conv, bn)
    assert snapshot(*modules) == before


def with_shape(conv: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(conv, name, value)
    return conv


WRONG: dict[str, tuple[type[Exception], Callable[[], tuple[Any, Any]]]] = {
    "no affine": (AttributeError, lambda: (pair()[0], nn.BatchNorm2d(8, affine=False))),
    "no statistics": (TypeError, lambda: (pair()[0], nn.BatchNorm2d(8, track_running_stats=False))),
    "GroupNorm": (AttributeError, lambda: (pair()[0], nn.GroupNorm(2, 8))),
    "no batch norm": (AttributeError, lambda: (pair()[0], None)),
    "no convolution": (AttributeError, lambda: (None, pair()[1])),
    "Linear": (AttributeError, lambda: (nn.Linear(4, 8), pair()[1])),
    "channels differ": (RuntimeError, lambda: (pair()[0], pair(7)[1])),
    "types differ": (RuntimeError, lambda: (pair()[0], pair()[1].double())),
    "half and single": (RuntimeError, lambda: (pair()[0].half(), pair()[1])),
    "transposed": (
        RuntimeError,
        lambda: (nn.ConvTranspose2d(4, 8, 3, bias=False).requires_grad_(False), pair()[1]),
    ),
    "groups do not divide": (
        ValueError,
        lambda: (with_shape(pair()[0], groups=3), pair()[1]),
    ),
    "stated channels differ": (
        RuntimeError,
        lambda: (with_shape(pair()[0], out_channels=4), pair()[1]),
    ),
    "stated channels are too many": (
        RuntimeError,
        lambda: (with_shape(pair()[0], in_channels=2**62), pair()[1]),
    ),
    "same padding with a stride": (
        ValueError,
        lambda: (with_shape(pair()[0], padding="same", stride=(2, 2)), pair()[1]),
    ),
    "unknown padding": (ValueError, lambda: (with_shape(pair()[0], padding="some"), pair()[1])),
    "eps is text": (TypeError, lambda: (pair()[0], with_shape(pair()[1], eps="1e-3"))),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs(case: str) -> None:
    """The original's exception, and nothing changed."""
    error, make = WRONG[case]
    raises_like(error, *make())


def test_other_modules_run_in_torch() -> None:
    square = nn.ConvTranspose2d(8, 8, 3).requires_grad_(False)
    for conv in (square, with_shape(pair()[0], kernel_size=[3, 3])):
        check_in_torch(conv, pair()[1])
    for eps in (1, 1e300):
        check_in_torch(pair()[0], with_shape(pair()[1], eps=eps))


def test_meta_tensors() -> None:
    conv, bn = (module.to("meta") for module in pair())
    fused = fuse_conv_and_bn(conv, bn)
    assert fused.weight.device.type == fused.bias.device.type == "meta"


def test_tensor_subclasses_run_in_torch() -> None:
    class Own(Tensor):
        pass

    conv, bn = pair()
    wanted = original(conv, bn)
    bn.running_mean = bn.running_mean.as_subclass(Own)
    with takes("fuse", "torch"):
        assert torch.equal(fuse_conv_and_bn(conv, bn).bias, wanted.bias)


def goes_to_torch(words: str) -> nn.Conv2d:
    conv, bn = pair()
    reasons = OPERATIONS["fuse"].reasons
    before = {reason: count for reason, count in reasons.items() if words in reason}
    fused = fuse_conv_and_bn(conv, bn)
    after = {reason: count for reason, count in reasons.items() if words in reason}
    assert sum(after.values()) == sum(before.values()) + 1, reasons
    assert torch.equal(fused.weight, original(conv, bn).weight)
    return fused


def test_autocast() -> None:
    with torch.autocast("cpu"):
        goes_to_torch("autocast")


def test_lowered_precision() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        goes_to_torch("precision")
    finally:
        torch.set_float32_matmul_precision(before)


def test_registration_hooks() -> None:
    seen: list[str] = []
    hook = torch_module.register_module_parameter_registration_hook(
        lambda module, name, parameter: seen.append(name)
    )
    try:
        goes_to_torch("hook")
    finally:
        hook.remove()
    assert seen[:2] == ["weight", "bias"]


def test_a_replaced_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn, "Conv2d", OwnConv)
    assert type(goes_to_torch("replaced")) is OwnConv


def test_forward_mode() -> None:
    with torch.autograd.forward_ad.dual_level():
        goes_to_torch("forward-mode")


def test_unknown_members(monkeypatch: pytest.MonkeyPatch) -> None:
    construct = fuse_file._construct

    def of_a_later_torch(*like: Any) -> nn.Conv2d:
        module = construct(*like)
        module.cache = [1]  # type: ignore[assignment]
        return module

    with monkeypatch.context() as later:
        later.setattr(fuse_file, "_construct", of_a_later_torch)
        assert fuse_file.convolution_prototype.__wrapped__() is None
    monkeypatch.setattr(fuse_file, "convolution_prototype", lambda: None)
    goes_to_torch("members")


def test_both_ways_to_a_tensor(level: str, way_to_memory: str) -> None:
    check(*pair())
    check(*pair(8, 3, 3, torch.float64))


def lacking(name: str) -> nn.Conv2d:
    prototype = nn.Conv2d(1, 1, 1)
    del prototype.__dict__[name]
    return prototype


PROTOTYPES: dict[str, tuple[Callable[[], Any], type[Exception]]] = {
    "a tuple": (tuple, TypeError),
    "another module": (lambda: nn.Linear(1, 1), TypeError),
    "a subclass": (lambda: OwnConv(1, 1, 1), TypeError),
    "no parameters": (lambda: lacking("_parameters"), ValueError),
}


@pytest.mark.parametrize("case", PROTOTYPES)
def test_wrong_prototypes(case: str) -> None:
    make, error = PROTOTYPES[case]
    conv, bn = pair()
    for call in (
        lambda: _C.fuse([conv], [bn], make()),
        lambda: _C.new_convolution(conv, make(), torch.device("cpu")),
    ):
        with pytest.raises(error):
            call()


def test_wrong_arguments() -> None:
    conv, bn = pair()
    prototype = fuse_file.convolution_prototype()
    for arguments in ((conv, bn, prototype), ([conv], (bn,), prototype), ([conv], [bn], [])):
        with pytest.raises(TypeError):
            _C.fuse(*arguments)
    with pytest.raises(IndexError):
        _C.fuse([conv], [], prototype)
    with pytest.raises(ValueError, match="padding"):
        _C.fuse([with_shape(conv, padding="same")], [bn], prototype)
    assert _C.fuse([], [], prototype) == []


@pytest.fixture
def facts():
    yield _native.TorchFacts()
    _C.register_torch(_native.TorchFacts())


def test_a_torch_without_a_square_root_of_its_own(facts: Any) -> None:
    """A build of torch may have a method in Python where others have it in C, or none."""
    names = ("is_neg", "storage_offset", "untyped_storage")
    base = facts.tensor_base
    facts.tensor_base = type("Base", (), {n: getattr(base, n) for n in names if hasattr(base, n)})
    _C.register_torch(facts)
    check_in_torch(*pair())
    assert "no torch.sqrt of its own" in list(OPERATIONS["fuse"].reasons)[-1]


@pytest.mark.parametrize("name", ["allocate", "empty", "empty_like", "is_grad_enabled"])
def test_what_every_torch_has_is_not_none(facts: Any, name: str) -> None:
    setattr(facts, name, None)
    with pytest.raises(TypeError, match="None in place of a function"):
        _C.register_torch(facts)
