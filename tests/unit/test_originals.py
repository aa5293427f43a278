"""Where the user replaced what the originals call in torch, that is called: the table of names, and
that it is complete and noticed by every hot path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import reduce
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from yolov5_utils import explain, originals, reference
from yolov5_utils.operation import Operation
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.ops.fuse_model import fuse_model

from .. import older_torch
from ..support import python, takes

OP = sys.modules["yolov5_utils.ops.scale_img"]


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()


RECORDS = {name: record for name, record in OPERATIONS.items() if record.originals.names}
NAMES = [
    (operation, owner, name)
    for operation, record in OPERATIONS.items()
    for owner, text in record.originals.names
    for name in text.split()
]


@pytest.fixture(autouse=True)
def no_call_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that was refused before is refused for the same reason again."""
    monkeypatch.setattr(OP, "_calibration", OP.Calibration())


def place_of(owner: str) -> Any:
    return reduce(getattr, filter(None, owner.split(".")), torch)


@pytest.mark.parametrize("operation", RECORDS)
def test_nothing_is_replaced_in_a_fresh_torch(operation: str) -> None:
    assert OPERATIONS[operation].originals.replaced() is None
    way = "torch" if operation == "scale_img" and older_torch.APPLIES else "C"
    record = RECORDS[operation]
    with takes(operation, way):
        record.call(*record.usual())


@pytest.mark.parametrize(("operation", "owner", "name"), NAMES, ids=[".".join(n) for n in NAMES])
def test_a_replacement_is_noticed(
    monkeypatch: pytest.MonkeyPatch, operation: str, owner: str, name: str
) -> None:
    place = place_of(owner)
    own = getattr(place, name)  # every release from 1.13 on has them all

    class Other(own if isinstance(own, type) else object):  # type: ignore[misc]
        def __call__(self, *args: Any, **keywords: Any) -> Any:
            return own(*args, **keywords)

    other = Other if isinstance(own, type) else Other()
    monkeypatch.setattr(place, name, other)
    where = ".".join(filter(None, ("torch", owner, name)))
    assert OPERATIONS[operation].originals.replaced() == f"{where} was replaced"
    monkeypatch.undo()
    assert OPERATIONS[operation].originals.replaced() is None


# What users replace: (operation, owner, name).
WATCHED = [
    ("ema", "nn.Module", "state_dict"),
    ("ema", "Tensor", "detach"),
    ("sparsity", "nn.Module", "parameters"),
    ("sparsity", "Tensor", "numel"),
    ("prune", "nn.Module", "named_modules"),
    ("prune", "nn.utils.prune", "l1_unstructured"),
    ("prune", "nn.utils.prune", "remove"),
    ("fuse", "", "mm"),
    ("fuse", "", "diag"),
    ("fuse", "nn.Conv2d", "reset_parameters"),
    ("scale_img", "nn.functional", "interpolate"),
    ("scale_img", "nn.functional", "pad"),
]


@pytest.mark.parametrize(
    ("operation", "owner", "name"), WATCHED, ids=[".".join(n) for n in WATCHED]
)
def test_what_a_user_put_there_is_called(
    monkeypatch: pytest.MonkeyPatch, operation: str, owner: str, name: str
) -> None:
    place, called = place_of(owner), []
    own = getattr(place, name)

    def counting(*args: Any, **keywords: Any) -> Any:
        called.append(name)
        return own(*args, **keywords)

    monkeypatch.setattr(place, name, counting)
    record = RECORDS[operation]
    with takes(operation, "torch"):
        record.call(*record.usual())
    assert called
    where = ".".join(filter(None, ("torch", owner, name)))
    assert record.reasons[f"{where} was replaced"] > 0
    why = explain(operation)
    assert (why.way, why.why.partition(";")[0]) == ("torch", f"{where} was replaced")


def test_fuse_model_lets_the_user_see_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    own = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *args: called.append(1) or own(*args))
    model = nn.Module()
    model.layer = nn.Module()  # type: ignore[assignment]
    model.layer.conv, model.layer.bn = layers().requires_grad_(False)
    model.layer.forward_fuse = model.layer.forward
    fuse_model(model)
    assert len(called) == 2


def called_by(record: Operation) -> Iterator[str]:
    """The names of what the package's reference calls of torch, seen by the interpreter."""
    found: set[str] = set()
    given = record.usual()

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and frame.f_code.co_filename == reference.__file__:
            found.add(argument.__name__)
        outer = frame.f_back
        if event == "call" and outer is not None and outer.f_code.co_filename == reference.__file__:
            found.add(frame.f_code.co_name)

    sys.setprofile(watch)
    try:
        record.reference(*given)
    finally:
        sys.setprofile(None)
    return iter(found)


# Of Python and of the reference itself; and what of torch says nothing but of its arguments.
NOT_TORCHS = frozenset(
    (
        *("any", "append", "before", "ceil", "enumerate", "getattr", "isinstance", "items", "len"),
        *("map", "partition", "repeat", "sum", "type", "get", "zip", "run"),
        *("<dictcomp>", "<genexpr>", "<lambda>", "<listcomp>", "__enter__", "__exit__"),
        "_handle_fromlist",
        *("__getattr__", "__get__", "__init__", "__new__", "__setattr__"),
        *("ema_update", "floating_pairs", "fuse_conv_and_bn", "in_forward_mode", "in_transform"),
        *("keep_padding", "layers", "may_fail", "padding_mode", "peek_interpreter_stack"),
        *("prune_layers", "scale_img", "share_of_zeros", "sparsity", "update_pairs"),
        *("_is_zerotensor", "eq", "eval", "is_floating_point", "manual_seed", "new_zeros"),
        *("requires_grad_", "stride"),
    )
)


@pytest.mark.parametrize("operation", RECORDS)
def test_the_table_has_all_that_the_reference_calls(operation: str) -> None:
    named = {name for _, text in OPERATIONS[operation].originals.names for name in text.split()}
    missing = set(called_by(RECORDS[operation])) - named - NOT_TORCHS
    assert missing == set()


def test_wrappers_put_there_before_the_import_are_seen() -> None:
    wrapped = torch.no_grad()(torch_prune.remove)
    assert not originals._is_torchs(wrapped, "remove")
    assert not originals._is_torchs(lambda: None, "remove")
    assert originals._is_torchs(torch_prune.remove, "remove")


def test_what_was_replaced_at_the_first_look_may_be_torchs_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as early:
        early.setattr(torch.nn.functional, "pad", lambda *args, **keywords: None)
        calls = originals.Originals(*OPERATIONS["scale_img"].originals.names)
        for _ in range(2):
            assert calls.replaced() == "torch.nn.functional.pad was replaced"
    assert calls.replaced() is None


def test_torchs_pruning_is_imported_when_something_is_pruned() -> None:
    """And no earlier, since the original imports it then: in a process that has not got it yet."""
    code = (
        "import sys, torch, yolov5_utils.overlay.replacements\n"
        "from yolov5_utils.ops.prune import prune_layers\n"
        "assert 'torch.nn.utils.prune' not in sys.modules\n"
        "model = torch.nn.Conv2d(3, 4, 3)\n"
        "prune_layers(model, 0.5)\n"
        "print(int((model.weight == 0).sum()), 'torch.nn.utils.prune' in sys.modules)\n"
    )
    done = python("-c", code)
    assert done.stdout == "54 True\n", done.stderr
