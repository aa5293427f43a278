"""What a look-up raises is raised: keys of dicts and sets that are compared by code of their own,
and exceptions whose text is. Nothing is left pending behind a call that has returned."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from yolov5_utils import _C
from yolov5_utils.ops.fuse import convolution_prototype

from ..support import Holder

PENDING = ctypes.pythonapi.PyErr_Occurred
PENDING.restype = ctypes.c_void_p


class Compared(BaseException):
    """What nothing may handle."""


class Key(str):
    """Equal to no other string, and once it is armed not to be compared."""

    __slots__ = ()
    armed = False
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        if Key.armed:
            raise Compared
        return self is other


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    Key.armed = False


def assert_raised(call: Callable[[], object]) -> None:
    Key.armed = True
    with pytest.raises(Compared):
        call()
    Key.armed = False


def model() -> nn.Module:
    return nn.Sequential(Holder(torch.ones(3)), nn.Linear(2, 2))


def with_key_before(members: dict[str, Any], name: str) -> dict[str, Any]:
    """The same members, a key before them that is met by who looks for the name."""
    return {Key(name): None, **members}


OF_STATES = (
    *("_parameters", "_buffers", "_modules", "state_dict", "_save_to_state_dict"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_non_persistent_buffers_set"),
)
OF_PARAMETERS = ("_parameters", "_buffers", "_modules", "named_modules", "_named_members")


@pytest.mark.parametrize("name", OF_STATES)
@pytest.mark.parametrize("which", [0, 1], ids=["average", "source"])
def test_members_of_a_module_that_is_averaged(name: str, which: int) -> None:
    pair = [model(), model()]
    pair[which][0].__dict__ = with_key_before(pair[which][0].__dict__, name)
    if name in pair[which].__dict__:
        pair[which].__dict__ = with_key_before(pair[which].__dict__, name)
    assert_raised(lambda: _C.ema_update(*pair, 0.5))
    assert bool((pair[0][0].b0 == 1).all())


@pytest.mark.parametrize("name", OF_PARAMETERS)
def test_members_of_a_module_that_is_counted(name: str) -> None:
    counted = model()
    counted.__dict__ = with_key_before(counted.__dict__, name)
    Key.armed = True
    with pytest.raises(Compared):
        _C.count_module_zeros(counted)
    assert not PENDING()


@pytest.mark.parametrize("which", [0, 1], ids=["average", "source"])
def test_names_of_hidden_buffers(which: int) -> None:
    pair = [model(), model()]
    pair[which][0]._non_persistent_buffers_set.add(Key("b0"))
    assert_raised(lambda: _C.ema_update(*pair, 0.5))


@pytest.mark.parametrize("entries", ["_parameters", "_buffers", "_modules"])
def test_names_of_the_sources_entries(entries: str) -> None:
    average, source = model(), model()
    module = (
        source if entries == "_modules" else source[1] if entries == "_parameters" else source[0]
    )
    first = next(iter(getattr(module, entries)))
    module.__dict__[entries] = with_key_before(getattr(module, entries), first)
    assert_raised(lambda: _C.ema_update(average, source, 0.5))


@pytest.mark.skipif(
    hasattr(torch._C, "_cuda_getDeviceCount"), reason="needs a torch without CUDA, which lacks it"
)
def test_names_in_torch_itself() -> None:
    key = Key("_cuda_getDeviceCount")
    vars(torch._C)[key] = None
    try:
        assert_raised(_C.time_synchronized)
    finally:
        del vars(torch._C)[key]


class Text:
    def __str__(self) -> str:
        raise Compared


class Lacking(nn.Conv2d):
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(Text())


def test_an_exception_whose_text_raises() -> None:
    conv, bn = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)
    conv.__class__ = Lacking
    with pytest.raises(Compared):
        _C.fuse([conv], [bn], convolution_prototype())


def test_a_producer_that_refuses_in_words_that_raise() -> None:
    class Producer:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        def __dlpack__(self, **_: Any) -> Any:
            raise TypeError(Text())

    with pytest.raises(Compared):
        _C.count_zeros(Producer())


@pytest.mark.parametrize("level", ["no level", "\ud800", "avx2\0", "portable "])
def test_levels_of_any_text(level: str) -> None:
    with pytest.raises(ValueError, match="allowed are"):
        _C.configure(level)
