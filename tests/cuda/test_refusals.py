"""What the extension refuses of tensors on a GPU: described by ctypes, in sizes that no memory has.
The library is never called for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from yolov5_utils import _C, _native

from ..robustness import fake_torch
from ..robustness.fake_torch import Convolution, Module, Tensor
from ..robustness.producers import CUDA, Producer
from .stand_in import Record, never_called, record_of

INT8, INT32, INT64 = (0, 8, 1), (0, 32, 1), (0, 64, 1)
FLOAT64, FLOAT16 = (2, 64, 1), (2, 16, 1)
FAR = 1 << 46  # memory that nothing here touches
SIDE_LIMIT = 1 << 22


def tensor(*shape: int, **fields: Any) -> Tensor:
    """A tensor on a GPU, with memory of one element."""
    return Tensor(Producer([1.0], shape=shape, **{"device": (CUDA, 0), **fields}))


def beside(other: Tensor, *shape: int, **fields: Any) -> Tensor:
    """One that begins where the other one does."""
    made = tensor(*shape, **fields)
    made.producer.managed.tensor.data = other.producer.managed.tensor.data
    return made


class Facts(fake_torch.Facts):
    current_stream = staticmethod(abs)  # of device 0 the stream 0
    given: Callable[[], Tensor]

    @classmethod
    def allocate(cls, size_bytes: int, device_index: int) -> Tensor:
        return cls.given()


@pytest.fixture
def record(built: Callable[..., Path]) -> Iterator[Record]:
    """Of a library that works, told of by a torch that is not there."""
    library = built("fake_library.c")
    assert _C.register_torch(Facts())
    _C.use_cuda_library(library)
    yield record_of(library)
    _C.register_torch(_native.TorchFacts())
    _native.find_cuda_library()


def pair(**changes: Tensor | None) -> tuple[Any, ...]:
    """What fuse_on_gpu takes of one convolution and batch norm."""
    made: dict[str, Any] = {"weight": tensor(2, 3, 1, 1, start=FAR), "bias": tensor(2)}
    made |= {name: tensor(2) for name in ("gamma", "beta", "mean", "variance")}
    made |= {"fused": tensor(2, 3, 1, 1, start=2 * FAR), "shift": tensor(2, start=3 * FAR)}
    return (*(made | changes).values(), 1e-3)


def fuse(*pairs: Any, **flags: Any) -> Any:
    fields = {"dtype": INT32, "start": 4 * FAR, **flags}
    return _C.fuse_on_gpu(list(pairs), tensor(fields.pop("count", len(pairs)), **fields))


def scale(image: Tensor, output: Tensor | None = None, size: Any = (4, 4), variant: int = 0) -> Any:
    room = tensor(1, 1, 4, 4, start=FAR) if output is None else output
    return _C.scale_img(image, room, size, variant)


def image(*shape: int, **fields: Any) -> Tensor:
    return tensor(*(shape or (1, 1, 4, 4)), **fields)


def count(given: Tensor) -> Any:
    module, Facts.given = Module(), lambda: given
    module._parameters = {"weight": tensor(3)}
    return _C.count_module_zeros(module)


def prune(given: Tensor) -> Any:
    Facts.given = lambda: given
    return _C.prune([tensor(3)], [tensor(3, start=FAR)], [1])


def update(average: Module, source: Module) -> Any:
    return _C.ema_update(average, source, 0.5)


SHARED, VECTOR, NUMBERS = tensor(3), tensor(2), tensor(3, dtype=INT64)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "ema, gaps": (
        lambda: update(Module(tensor(3, strides=(2,), start=FAR)), Module(tensor(3))),
        "gaps or another order in memory, on a GPU",
    ),
    "ema, shared": (
        lambda: update(Module(SHARED, SHARED), Module(tensor(3), tensor(3))),
        "entries that share memory, on a GPU",
    ),
    "ema, a second device": (
        lambda: update(Module(tensor(3, start=FAR)), Module(tensor(3, device=(CUDA, 1)))),
        "on cuda:1, but tensors before it on cuda:0",
    ),
    "count, of one tensor": (lambda: _C.count_zeros(tensor(3)), "not in the CPU's memory"),
    "count, too little memory": (lambda: count(tensor(7, dtype=INT8)), "too little memory"),
    "count, memory of numbers": (lambda: count(tensor(8, dtype=INT64)), "too little memory"),
    "count, memory with gaps": (
        lambda: count(tensor(8, dtype=INT8, strides=(2,))),
        "too little memory",
    ),
    "count, memory out of alignment": (
        lambda: count(tensor(8, dtype=INT8, start=4)),
        "too little memory",
    ),
    "prune, memory out of alignment": (
        lambda: prune(tensor(256, dtype=INT8, start=8)),
        "workspace is not one of bytes",
    ),
    "prune, memory of numbers": (lambda: prune(tensor(256)), "workspace is not one of bytes"),
    "prune, memory with gaps": (
        lambda: prune(tensor(256, dtype=INT8, strides=(2,))),
        "workspace is not one of bytes",
    ),
    "prune, less than was asked for": (
        lambda: prune(tensor(9, dtype=INT8, start=2 * FAR)),
        "the weights were replaced meanwhile",
    ),
    "fuse, on the CPU": (
        lambda: _C.fuse_on_gpu([], tensor(0, dtype=INT32, device=(1, 0))),
        "not on a CUDA device",
    ),
    "fuse, no dimension": (
        lambda: fuse(pair(weight=tensor())),
        "conv.weight: no elements, gaps, or channels not outermost",
    ),
    "fuse, no element": (lambda: fuse(pair(weight=tensor(0, 3, 1, 1))), "no elements, gaps"),
    "fuse, gaps": (
        lambda: fuse(pair(weight=tensor(2, 3, 1, 1, strides=(8, 2, 1, 1)))),
        "no elements, gaps",
    ),
    "fuse, channels inside": (
        lambda: fuse(pair(weight=tensor(2, 3, 1, 1, strides=(1, 2, 1, 1)))),
        "channels not outermost in memory",
    ),
    "fuse, another result": (
        lambda: fuse(pair(fused=tensor(2, 4, 1, 1, start=FAR))),
        "another shape or order in memory than the result has",
    ),
    "fuse, no vector": (
        lambda: fuse(pair(gamma=tensor(2, 1))),
        "bn.weight: not one number for each channel",
    ),
    "fuse, a long vector": (lambda: fuse(pair(beta=tensor(3))), "bn.bias: not one number"),
    "fuse, a vector with gaps": (
        lambda: fuse(pair(mean=tensor(2, strides=(2,)))),
        "bn.running_mean: not one number for each channel, side by side",
    ),
    "fuse, another type": (
        lambda: fuse(pair(variance=tensor(2, dtype=FLOAT64))),
        "bn.running_var: not of the weight's type",
    ),
    "fuse, integers": (lambda: fuse(pair(bias=tensor(2, dtype=INT32))), "not of a floating type"),
    "fuse, no tensor": (lambda: fuse(pair(bias=5)), "conv.bias: "),  # type: ignore[arg-type]
    "fuse, out of alignment": (
        lambda: fuse(pair(bias=tensor(2, start=1))),
        "elements are not aligned to their size",
    ),
    "fuse, a result out of alignment": (
        lambda: fuse(pair(shift=tensor(2, start=3 * FAR + 1))),
        "the fused bias: elements are not aligned to their size",
    ),
    "scale, dimensions": (lambda: scale(image(1, 4, 4)), "3 dimensions, not 4"),
    "scale, doubles": (lambda: scale(image(dtype=FLOAT64)), "not float32, float16 or bfloat16"),
    "scale, empty": (lambda: scale(image(0, 1, 4, 4)), "no elements"),
    "scale, elements": (lambda: scale(image(1 << 31, 1, 1, 1)), "2\\^31 elements or more"),
    **{
        f"scale, {name}": (
            lambda shape=shape: scale(image(*shape)),
            "more than 2\\^22 channels, rows or columns",
        )
        for name, shape in (
            ("channels", (1, SIDE_LIMIT + 1, 1, 1)),
            ("rows", (1, 1, SIDE_LIMIT + 1, 1)),
            ("columns", (1, 1, 1, SIDE_LIMIT + 1)),
        )
    },
    "scale, gaps": (
        lambda: scale(image(strides=(64, 64, 8, 2))),
        "neither contiguous nor channels last",
    ),
    **{
        f"scale, {side} of the result": (
            lambda shape=shape, size=size: scale(image(), tensor(1, 1, *shape, start=FAR), size),
            "more than 2\\^22 rows or columns of the result",
        )
        for side, shape, size in (
            ("rows", (4, 4), (SIDE_LIMIT + 1, 4)),
            ("columns", (4, SIDE_LIMIT + 1), (4, 4)),
        )
    },
    "scale, elements of the result": (
        lambda: scale(image(), tensor(1, 1, 1 << 16, 1 << 16, start=FAR)),
        "2\\^31 elements of the result or more",
    ),
}
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "count, memory that is counted": (lambda: count_in_itself(), "share memory with a parameter"),
    "fuse, no list": (lambda: _C.fuse_on_gpu((), tensor(0, dtype=INT32)), "expected a list"),
    "fuse, no tuple": (lambda: fuse([1, 2]), "expected tuples of 8 tensors and a float"),
    "fuse, a short tuple": (lambda: fuse((1.0,)), "expected tuples of 8 tensors and a float"),
    "fuse, no float": (lambda: fuse((*pair()[:-1], 1)), "expected tuples of 8 tensors and a float"),
    "fuse, no flags": (lambda: _C.fuse_on_gpu([], 5), "doubtful: expected a tensor"),
    "fuse, long flags": (lambda: fuse(pair(), count=2), "doubtful: expected an int32 for each"),
    "fuse, flags of floats": (lambda: fuse(pair(), dtype=FLOAT16), "expected an int32 for each"),
    "fuse, flags with gaps": (
        lambda: fuse(pair(), pair(), strides=(2,)),
        "expected an int32 for each pair",
    ),
    "fuse, flags out of alignment": (
        lambda: fuse(pair(), start=4 * FAR + 1),
        "expected an int32 for each pair",
    ),
    "fuse, shared": (
        lambda: fuse(pair(gamma=VECTOR, shift=VECTOR)),
        "a result shares memory with another tensor",
    ),
    "scale, another batch": (
        lambda: scale(image(), tensor(2, 1, 4, 4, start=FAR)),
        "output: expected 4 dimensions and the image's dtype, batch",
    ),
    "scale, variants": (lambda: scale(image(), variant=10_000), "allowed on a GPU are 0 to"),
    "scale, no variant": (lambda: scale(image(), variant=-1), "allowed on a GPU are 0 to"),
    "scale, no rows": (lambda: scale(image(), size=(0, 4)), "rows and columns from 1"),
    "sum, shared": (
        lambda: _C.sum_zeros(NUMBERS, beside(NUMBERS)),
        "sum: shares memory with zeros",
    ),
}


def count_in_itself() -> Any:
    """The memory for the counts is a parameter's."""
    parameter = tensor(9)
    module, Facts.given = Module(), lambda: beside(parameter, 36, dtype=INT8)
    module._parameters = {"weight": parameter}
    try:
        return _C.count_module_zeros(module)
    except _C.Unsupported as error:
        raise ValueError(error) from error


@pytest.mark.parametrize("name", REFUSED)
def test_torch_has_to_do_it(record: Record, name: str) -> None:
    call, words = REFUSED[name]
    with never_called(record), pytest.raises(_C.Unsupported, match=words):
        call()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(record: Record, name: str) -> None:
    call, words = WRONG[name]
    with never_called(record), pytest.raises((TypeError, ValueError), match=words):
        call()


def test_what_is_not_refused(record: Record) -> None:
    """The calls that those above differ from."""
    with never_called(record):
        assert fuse() == 0  # nothing to do
    for call in (
        lambda: update(Module(tensor(3, start=FAR)), Module(tensor(3))),
        lambda: fuse(pair(), start=0),
        lambda: fuse(pair(bias=None), start=0),
        lambda: scale(image()),
        lambda: prune(tensor(256, dtype=INT8, start=2 * FAR)),
        lambda: _C.sum_zeros(tensor(3, dtype=INT64, start=FAR), tensor()),
    ):
        calls = record.calls
        call()
        assert record.calls == calls + 1


def test_streams(record: Record) -> None:
    """Of a torch whose exchange table tells none."""
    for function, words in (
        (None, "this torch does not name its current stream"),
        (len, r"torch's current stream refused it: object of type 'int' has no len\(\)"),
    ):
        facts = Facts()
        facts.current_stream = function  # type: ignore[method-assign,assignment]
        _C.register_torch(facts)
        with never_called(record), pytest.raises(_C.Unsupported, match=words):
            scale(image())


def test_fuse_takes_nothing_of_a_gpu(record: Record) -> None:
    conv = Convolution()
    conv._parameters["weight"] = tensor(2, 1, 3, 3)
    with never_called(record), pytest.raises(_C.Unsupported, match="not in the CPU's memory"):
        _C.fuse([conv], [fake_torch.Norm()], Convolution())
