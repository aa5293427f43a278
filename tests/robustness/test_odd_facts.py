"""Other torches than the installed one, by what the extension is told of them: facts that are
wrong, functions that are missing, and tensors that change while torch is asked."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from yolov5_utils import _C, _native

from . import another, fake_torch
from .fake_torch import EXCHANGE, TABLE, Convolution, Facts, Header, Module, Norm, Tensor, floats
from .producers import CUDA, Producer


@pytest.fixture(autouse=True)
def torch_again() -> Iterator[None]:
    yield
    _C.register_torch(_native.TorchFacts())


def told(**changes: Any) -> Facts:
    facts = Facts()
    for name, value in changes.items():
        setattr(facts, name, value)
    return facts


WRONG: list[tuple[str, Any, str]] = [
    ("tensor_type", None, "tensor_type: expected a type"),
    ("module_type", 5, "module_type: expected a type"),
    *(
        ("guards", wrong, r"guards: expected a tuple of \(callable, str\) tuples")
        for wrong in (None, [], (5,), ((len,),), ((5, ""),), ((len, 5),))
    ),
    *(
        (name, None, "None in place of a function that every torch has")
        for name in ("empty", "empty_like", "is_grad_enabled", "allocate")
    ),
    *(("byte_types", wrong, "byte_types.*: expected tuples") for wrong in (None, [])),
    *(
        ("version_methods", wrong, "version_methods: expected tuples")
        for wrong in (None, [], (len, len))
    ),
    ("layout", (None, 1), "takes exactly 3 arguments"),
]


@pytest.mark.parametrize(("name", "wrong", "text"), WRONG)
def test_wrong_facts(name: str, wrong: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        _C.register_torch(told(**{name: wrong}))
    assert _C.count_zeros(Producer()) == 3


@pytest.mark.parametrize("name", ["increments_lists", "layout", "clock", "use_exchange", "guards"])
def test_facts_that_are_missing(name: str) -> None:
    class Missing(Facts):
        def __getattribute__(self, asked: str) -> Any:
            if asked == name:
                raise AttributeError(asked)
            return super().__getattribute__(asked)

    with pytest.raises(AttributeError, match=name):
        _C.register_torch(Missing())


def test_before_it_is_told_of_torch() -> None:
    new = another.extension()
    assert new.count_zeros(Producer()) == 3
    for call in (lambda: new.prune([], None, []), new.time_synchronized):
        with pytest.raises(new.Unsupported, match="register_torch"):
            call()


def tensors_with(capsule: Any) -> type[Tensor]:
    return type("Other", (Tensor,), {"__dlpack_c_exchange_api__": capsule})


def capsule_of(table: Any, name: bytes = EXCHANGE) -> Any:
    return fake_torch._new(ctypes.addressof(table), name, None)


def test_exchange_tables() -> None:
    """A table of another major version may lead to one of an older, which is known."""
    nothing, table = (ctypes.c_void_p * 3)(), type(TABLE)
    silent = table(Header(1, 3, None), nothing, type(TABLE.borrow)(), None)
    newest = table(Header(2, 0, ctypes.addressof(TABLE)), nothing, TABLE.borrow, None)
    future = table(Header(2, 0, None), nothing, TABLE.borrow, None)
    for capsule, used in (
        (capsule_of(newest), True),
        (capsule_of(future), False),
        (capsule_of(silent), False),
        (capsule_of(TABLE, b"another"), False),
        (None, False),
    ):
        assert _C.register_torch(told(tensor_type=tensors_with(capsule))) is used


def test_neither_a_table_nor_capsules() -> None:
    _C.register_torch(told(use_exchange=False))
    with pytest.raises(_C.Unsupported, match="this torch describes no tensors"):
        _C.count_zeros(floats(3))


def update(*averages: Tensor) -> list[float]:
    """Averages ones with the tensors; the first element of each."""
    _C.ema_update(Module(*averages), Module(*(floats(3, value=3.0) for _ in averages)), 0.5)
    return [average.producer.memory[0] for average in averages]


@pytest.mark.parametrize("lists", [False, True])
def test_versions_by_a_function_of_torch(lists: bool) -> None:
    """It takes one tensor, as before torch 2.5, or a list of them."""
    _C.register_torch(told(increment_version=id, increments_lists=lists))
    assert update(floats(3), floats(3)) == [2.0, 2.0]
    _C.register_torch(told(increment_version=ord, increments_lists=lists))
    tensor = floats(3)
    with pytest.raises(_C.Unsupported, match="version counter refused it: ord"):
        update(tensor)
    assert tensor.producer.memory[0] == 1.0


def test_functions_that_are_not_torchs_own() -> None:
    """They are not called: torch is asked as one that has none."""

    class Base(fake_torch.Base):
        is_neg = raising

    _C.register_torch(told(tensor_base=Base, increment_version=raising))
    assert update(floats(3)) == [2.0]


def raising(tensor: Tensor) -> None:
    raise AssertionError("was called")


def test_halves_before_torch_2_1() -> None:
    _C.register_torch(told(half_scalars_stay_float32=False))
    assert update(floats(3)) == [2.0]
    for code, bits in ((2, 16), (4, 16)):
        half = Tensor(Producer(shape=(3,), dtype=(code, bits, 1)))
        for average, source in ((half, floats(3)), (floats(3), half)):
            with pytest.raises(_C.Unsupported, match=r"torch before 2\.1 rounds them otherwise"):
                _C.ema_update(Module(average), Module(source), 0.5)


def elsewhere(tensor: Tensor) -> None:
    tensor.producer.managed.tensor.device_type = CUDA


def another_kind(tensor: Tensor) -> None:
    tensor.producer.managed.tensor.shape[0] = 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (elsewhere, "tensors were moved to another device meanwhile"),
        (another_kind, "replaced by a tensor of another kind meanwhile"),
    ],
)
def test_changes_while_torch_is_asked(change: Callable[[Tensor], None], words: str) -> None:
    tensor = floats(3)

    def detach(given: Tensor) -> Tensor:
        change(given)
        return given

    _C.register_torch(told(version_methods=(detach, *Facts.version_methods[1:])))
    with pytest.raises(_C.Unsupported, match=words):
        update(tensor)
    assert tensor.producer.memory[0] == 1.0


SIZES: list[tuple[str, Any]] = [
    *(("groups", wrong) for wrong in (True, 0, -1, 1 << 31, 1 << 80, 2)),
    *(("in_channels", wrong) for wrong in (1.0, 1 << 80)),
    ("out_channels", 0),
    *(("kernel_size", wrong) for wrong in ([3, 3], (3,), (3, 1 << 80), (3, 1.0), (0, 3))),
    *(("stride", wrong) for wrong in (1, (1, 1 << 31))),
    ("dilation", None),
    *(("padding", wrong) for wrong in (0, (0, -1))),
]


@pytest.mark.parametrize(("name", "wrong"), SIZES)
def test_sizes_that_no_constructor_leaves(name: str, wrong: Any) -> None:
    _C.register_torch(Facts())
    conv = Convolution()
    assert len(_C.fuse([conv], [Norm()], Convolution())) == 1
    setattr(conv, name, wrong)
    for call in (
        lambda: _C.fuse([conv], [Norm()], Convolution()),
        lambda: _C.new_convolution(conv, Convolution(), "cpu"),
    ):
        with pytest.raises(_C.Unsupported, match="conv: sizes that no constructor leaves"):
            call()


def test_groups_that_divide_one_of_both() -> None:
    _C.register_torch(Facts())
    conv = Convolution(3, 2)
    conv.groups = 2
    with pytest.raises(_C.Unsupported, match="conv: sizes that no constructor leaves"):
        _C.fuse([conv], [Norm(3)], Convolution())


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("default dtype is not float32 or float64", {"dtype": (2, 16, 1)}),
        ("torch gave memory of another shape", {"strides": (1, 2, 2, 6)}),
        ("torch gave memory of another shape", {"shape": (2, 1, 9, 1)}),
    ],
)
def test_memory_that_torch_gives(words: str, fields: dict[str, Any]) -> None:
    """Of another type, order or shape than was asked for."""
    memory = Tensor(Producer(**{"shape": (2, 1, 3, 3), **fields}))
    _C.register_torch(told(empty=lambda *_, **__: memory))
    with pytest.raises(_C.Unsupported, match=words):
        _C.fuse([Convolution()], [Norm()], Convolution())


def test_what_is_no_module() -> None:
    _C.register_torch(Facts())
    module = Module(floats(3))
    module._parameters = {"weight": 5}
    for call, words in (
        (lambda: _C.count_module_zeros(5), "model: not an nn.Module"),
        (lambda: _C.ema_update(Module(a=module), Module(a=5), 0.5), "a: not an nn.Module"),
        (lambda: _C.fuse([5], [Norm()], Convolution()), "conv: not an nn.Conv2d"),
        (lambda: _C.count_module_zeros(Module(a=module), -1), "a.weight: a subclass"),
    ):
        with pytest.raises(_C.Unsupported, match=f"^{words}"):
            call()


def test_a_parameter_that_the_source_has_not() -> None:
    _C.register_torch(Facts())
    average, source = Module(), Module()
    average._parameters, source._parameters = {"weight": floats(3)}, {"weight": None}
    with pytest.raises(KeyError, match="weight"):
        _C.ema_update(average, source, 0.5)


def test_members_that_are_no_dicts() -> None:
    """Of which nothing is read: the attributes are, which are missing."""
    _C.register_torch(Facts())
    conv = Convolution()
    conv._parameters = 5  # type: ignore[assignment]
    with pytest.raises(_C.Unsupported, match="an attribute is missing"):
        _C.fuse([conv], [Norm()], Convolution())
