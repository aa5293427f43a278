"""Odd tensors through the exchange table, in every place of every hot path: no description is
believed before it was checked, nothing is written, and what is let through is right."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from yolov5_utils import _C, _native

from .fake_torch import Convolution, Facts, Module, Norm, Tensor, floats
from .producers import CPU, DISHONEST, HONEST, Producer

MANAGED, ROCM, METAL = 13, 10, 8  # device types of DLPack
MORE: list[dict[str, Any]] = [
    {"device": (MANAGED, 0)},
    {"device": (ROCM, 0)},
    {"device": (METAL, 0)},
    {"device": (99, 0)},
    {"shape": (6,), "strides": (0,)},
    {"shape": (5,), "start": 2},
    {"shape": (1, 2, 3, 1)},
    {"shape": (1, 2, 3, 1), "strides": (6, 1, 2, 6)},
]
ODD = [*(fields for fields, _ in (*HONEST, *DISHONEST) if "old" not in fields), *MORE]


@pytest.fixture(scope="module", autouse=True)
def fake() -> Iterator[None]:
    assert _C.register_torch(Facts())
    yield
    _C.register_torch(_native.TorchFacts())


def shape_of(fields: dict[str, Any]) -> tuple[int, ...]:
    """A usual shape beside an odd one: the same where it can be had."""
    shape = fields.get("shape", (6,)) or ()
    size = 1
    for length in shape:
        size *= length
    return tuple(shape) if 0 <= size <= 6 else (6,)


def ema_average(odd: Tensor, usual: Tensor) -> None:
    _C.ema_update(Module(usual, odd), Module(floats(*usual.producer.shape), usual), 0.5)


def ema_source(odd: Tensor, usual: Tensor) -> None:
    _C.ema_update(Module(usual), Module(odd), 0.5)


def count(odd: Tensor, usual: Tensor) -> None:
    module = Module()
    module._parameters = {"a": usual, "b": odd}
    _C.count_module_zeros(module)
    _C.count_zeros(odd)


def prune(odd: Tensor, usual: Tensor) -> None:
    _C.prune([odd], [usual], [1])


def pruned(odd: Tensor, usual: Tensor) -> None:
    _C.prune([usual], [odd], [1])


def image(odd: Tensor, usual: Tensor) -> None:
    _C.scale_img(odd, usual, (1, 1), 0)


def output(odd: Tensor, usual: Tensor) -> None:
    _C.scale_img(floats(1, 1, 2, 3), odd, (1, 1), 0)


def fuse(odd: Tensor, usual: Tensor) -> None:
    for name in ("weight", "bias"):
        conv = Convolution()
        conv._parameters[name] = odd
        with suppress(_C.Unsupported):
            _C.fuse([conv], [Norm()], Convolution())
    norm = Norm(1)
    norm._buffers["running_var"] = odd
    _C.fuse([Convolution(1)], [norm], Convolution())


PLACES = (ema_average, ema_source, count, prune, pruned, image, output, fuse)


def memory(tensor: Tensor) -> bytes:
    return bytes(tensor.producer.memory)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fields", ODD, ids=str)
def test_odd_tensors(place: Callable[[Tensor, Tensor], None], fields: dict[str, Any]) -> None:
    odd, usual = Tensor(Producer(**fields)), floats(*shape_of(fields), value=3.0)
    before = memory(odd), memory(usual)
    objects = [odd, usual, odd.producer, usual.producer]
    references = [sys.getrefcount(x) for x in objects]
    try:
        place(odd, usual)
    except (_C.Unsupported, ValueError):  # of counts and sizes that do not fit
        assert (memory(odd), memory(usual)) == before
    assert [sys.getrefcount(x) for x in objects] == references
    assert odd.producer.deleted == 0  # the table lends nothing


@pytest.mark.parametrize("fields", [fields for fields, _ in DISHONEST], ids=str)
@pytest.mark.parametrize("place", [p for p in PLACES if p is not fuse])
def test_lies_are_refused(place: Callable[[Tensor, Tensor], None], fields: dict[str, Any]) -> None:
    with pytest.raises((_C.Unsupported, ValueError)):
        place(Tensor(Producer(**fields)), floats(*shape_of(fields)))


@pytest.mark.parametrize("wrong", [None, 5, Producer(), [1.0]], ids=lambda x: type(x).__name__)
def test_what_is_no_tensor_is_never_written_to(wrong: Any) -> None:
    """A producer, of read-only memory or not, is no place for results."""
    with pytest.raises(_C.Unsupported):
        _C.prune([floats(6)], [wrong], [1])
    with pytest.raises(_C.Unsupported):
        _C.scale_img(floats(1, 1, 2, 3), wrong, (1, 1), 0)


# What a producer can say, true or not; what it says of its memory's size is true where all of this
# is within six elements, and where it is not, the call that reads it would go too far: not drawn.
FIELDS = st.fixed_dictionaries(
    {"shape": st.lists(st.integers(0, 3), max_size=3).filter(lambda s: shape_product(s) <= 6)},
    optional={
        "dtype": st.sampled_from(
            [(2, 32, 1), (2, 16, 1), (4, 16, 1), (0, 8, 1), (6, 8, 1), (2, 33, 1)]
        ),
        "device": st.sampled_from([(CPU, 0), (CPU, 7), (3, 0), (2, 0), (13, 0), (-1, 0)]),
        "no_data": st.booleans(),
        "version": st.sampled_from([None, (1, 0), (1, 3), (2, 0)]),
        "deleter": st.booleans(),
        "old": st.booleans(),
        "ndim": st.sampled_from([-1, 0, 65, 2**31 - 1]),
        "capsule_name": st.sampled_from(
            [b"dltensor", b"dltensor_versioned", b"used_dltensor", b"x"]
        ),
    },
)


def shape_product(shape: list[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def references_of(tensor: Tensor) -> int:
    return sys.getrefcount(tensor.producer)


class Producers(RuleBasedStateMachine):
    """Producers come and go, are counted through capsules and through the table, and averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []
        self.loans: dict[int, int] = {}  # deletions of an export, of each producer
        self.references: dict[int, int] = {}

    @rule(fields=FIELDS)
    def make(self, fields: dict[str, Any]) -> None:
        version, name = fields.get("version"), fields.get("capsule_name")
        if name in (b"dltensor", b"dltensor_versioned"):  # a name that tells another layout
            fields["capsule_name"] = b"dltensor" if version is None else b"dltensor_versioned"
        tensor = Tensor(Producer(**fields))
        self.tensors.append(tensor)
        taken = name in (None, b"dltensor", b"dltensor_versioned")
        self.loans[id(tensor.producer)] = int(taken and fields.get("deleter", True))
        self.references[id(tensor.producer)] = references_of(tensor)

    @precondition(lambda self: self.tensors)
    @rule(draw=st.randoms(use_true_random=False))
    def count_capsule(self, draw: random.Random) -> None:
        producer = draw.choice(self.tensors).producer
        before, exports = producer.deleted, len(producer.calls)
        with suppress(ValueError, TypeError, BufferError):
            assert _C.count_zeros(producer) >= 0
        exported = len(producer.calls) > exports and producer.capsule is not None
        assert producer.deleted - before == self.loans[id(producer)] * exported
        producer.calls.clear()
        producer.capsule = None

    @precondition(lambda self: self.tensors)
    @rule(draw=st.randoms(use_true_random=False), place=st.sampled_from(PLACES))
    def use(self, draw: random.Random, place: Callable[[Tensor, Tensor], None]) -> None:
        tensor = draw.choice(self.tensors)
        before = tensor.producer.deleted
        with suppress(_C.Unsupported, ValueError, TypeError, BufferError):
            place(tensor, draw.choice([*self.tensors, floats(6), floats(1, 1, 2, 3)]))
        assert tensor.producer.deleted == before

    @precondition(lambda self: self.tensors)
    @rule(draw=st.randoms(use_true_random=False))
    def drop(self, draw: random.Random) -> None:
        self.tensors.pop(draw.randrange(len(self.tensors)))

    @rule()
    def collect(self) -> None:
        gc.collect(0)

    @invariant()
    def nothing_is_held(self) -> None:
        for tensor in self.tensors:
            assert references_of(tensor) == self.references[id(tensor.producer)]


Producers.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
test_any_order = Producers.TestCase
