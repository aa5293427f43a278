"""count_zeros on foreign DLPack producers, honest and not: nothing of a description is believed
before it was checked, and what was taken is given back exactly once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch

from yolov5_utils import _C

from .producers import CPU, CUDA, DISHONEST, HONEST, VERSIONS, Producer


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("fields", "zeros"), HONEST, ids=str)
def test_honest(version: tuple[int, int] | None, fields: dict[str, Any], zeros: int) -> None:
    producer = Producer(version=version, **fields)
    result = _C.count_zeros(producer)
    assert zeros is None or result == zeros
    assert producer.deleted == int(fields.get("deleter", True))
    assert producer.capsule_name().startswith(b"used_dltensor")
    assert producer.calls[0] == {"max_version": (1, 0)}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("fields", "error"), DISHONEST, ids=str)
def test_dishonest(
    version: tuple[int, int] | None, fields: dict[str, Any], error: type[Exception]
) -> None:
    producer = Producer(version=version, **fields)
    with pytest.raises(error, match=r"^tensor: "):
        _C.count_zeros(producer)
    assert producer.deleted == 1
    assert producer.capsule_name().startswith(b"used_dltensor")


@pytest.mark.parametrize("words", ["of something else", ""])
def test_a_type_error_of_its_own(words: str) -> None:
    """Only one that speaks of an argument is taken as an answer to max_version."""

    class Raising(Producer):
        def __dlpack__(self, **keywords: Any) -> Any:
            self.calls.append(keywords)
            raise TypeError(words)

    producer = Raising()
    with pytest.raises(TypeError, match=f"^{words}$"):
        _C.count_zeros(producer)
    assert len(producer.calls) == 1


@pytest.mark.parametrize("version", [(0, 0), (0, 8), (2, 0), (2**32 - 1, 0)])
def test_other_major_versions(version: tuple[int, int]) -> None:
    """Only the version and the deleter may be read: here the rest is rubbish."""
    rubbish = {"ndim": 2**31 - 1, "shape": None, "no_data": True, "dtype": (9, 9, 9)}
    producer = Producer(version=version, device=(99, 99), says_device=(CPU, 0), **rubbish)
    with pytest.raises(BufferError, match="major version"):
        _C.count_zeros(producer)
    assert producer.deleted == 1
    silent = Producer(version=version, deleter=False, **rubbish)
    with pytest.raises(BufferError, match="major version"):
        _C.count_zeros(silent)


@pytest.mark.parametrize("name", [b"used_dltensor", b"used_dltensor_versioned", b"", b"DLTENSOR"])
def test_capsules_of_other_names(name: bytes) -> None:
    """Such a capsule belongs to somebody else: it is neither read, renamed nor freed."""
    producer = Producer(capsule_name=name, no_data=True, ndim=-5)
    with pytest.raises(ValueError, match="not an unused DLPack capsule"):
        _C.count_zeros(producer)
    assert producer.deleted == 0
    assert producer.capsule_name() == name


def test_capsule_used_twice() -> None:
    producer = Producer()
    assert _C.count_zeros(producer) == 3
    again = producer.capsule
    producer.__dlpack__ = lambda **keywords: again  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="not an unused DLPack capsule"):
        _C.count_zeros(type("Twice", (Producer,), {"__dlpack__": lambda self, **k: again})())
    assert producer.deleted == 1


class Says:
    """A producer of whatever it is given, or raiser of it."""

    def __init__(self, capsule: Any = None, device: Any = (CPU, 0)) -> None:
        self.capsule, self.device = capsule, device

    @staticmethod
    def give(answer: Any) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer() if isinstance(answer, type) else answer

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.give(self.capsule)

    def __dlpack_device__(self) -> Any:
        return self.give(self.device)


@pytest.mark.parametrize("answer", [None, 7, "dltensor", object, int], ids=repr)
def test_answers_that_are_no_capsule(answer: Any) -> None:
    with pytest.raises(ValueError, match="not an unused DLPack capsule"):
        _C.count_zeros(Says(answer))


@pytest.mark.parametrize(
    "error", [RuntimeError("mine"), KeyboardInterrupt(), MemoryError(), BufferError("b")], ids=repr
)
def test_a_producers_exception_passes_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        _C.count_zeros(Says(error))
    assert raised.value is error
    with pytest.raises(type(error)) as raised:
        _C.count_zeros(Says(None, error))
    assert raised.value is error

    class Property:
        @property
        def __dlpack__(self) -> Any:
            raise error

        __dlpack_device__ = __dlpack__

    if not isinstance(error, (RuntimeError, BufferError)):
        with pytest.raises(type(error)):
            _C.count_zeros(Property())


@pytest.mark.parametrize("device", [(CUDA, 0), (8, 0), (-1, 0), (2**31, 0)], ids=str)
def test_foreign_devices_are_refused_before_export(device: tuple[int, int]) -> None:
    producer = Producer(says_device=device)
    with pytest.raises(BufferError, match="device type"):
        _C.count_zeros(producer)
    assert not producer.calls


@pytest.mark.parametrize("device", [None, (), 5, ("cpu", 0), (2**70, 0), {}], ids=str)
def test_devices_that_are_none(device: Any) -> None:
    with pytest.raises((TypeError, IndexError, OverflowError, KeyError)):
        _C.count_zeros(Says(Producer().__dlpack__(), device))


@pytest.mark.parametrize(
    "other",
    [None, 5, "x", [1.0], b"x", object(), Producer, {}],
    ids=lambda other: type(other).__name__,
)
def test_no_producer_at_all(other: Any) -> None:
    with pytest.raises(TypeError):
        _C.count_zeros(other)


def test_deleter_may_run_python_and_fail() -> None:
    """It runs with the GIL, keeps a pending exception, and may call back."""
    inner: list[int] = []

    def delete() -> None:
        gc.collect()
        inner.append(_C.count_zeros(Producer()))

    for fields, error in (({}, None), ({"ndim": -1}, ValueError)):
        producer = Producer(on_delete=delete, **fields)
        if error is None:
            assert _C.count_zeros(producer) == 3
        else:
            with pytest.raises(error):
                _C.count_zeros(producer)
        assert producer.deleted == 1
    assert inner == [3, 3]


def test_producer_that_forgets_itself() -> None:
    """The only other reference to the producer goes away inside __dlpack__."""

    class Fleeting(Producer):
        def __dlpack__(self, **keywords: Any) -> Any:
            holder.clear()
            gc.collect()
            return super().__dlpack__(**keywords)

    holder = [Fleeting()]
    assert _C.count_zeros(holder[0]) == 3


def test_references_stay() -> None:
    def counts(objects: list[Any]) -> list[int]:
        return [sys.getrefcount(x) for x in objects]

    makers: list[Callable[[], Any]] = [
        Producer,
        lambda: Producer(ndim=-1),
        lambda: Producer(version=(2, 0)),
        lambda: Producer(capsule_name=b"x"),
        lambda: Says(RuntimeError("x")),
        lambda: np.zeros(9),
        lambda: np.zeros(9, "M8[s]"),
        lambda: torch.zeros(9),
    ]
    objects = [make() for make in makers]
    watched = [*objects, *(type(x) for x in objects), None, torch.Tensor]
    before = counts(watched)
    for _ in range(50):
        for x in objects:
            with suppress(ValueError, BufferError, RuntimeError, TypeError):
                _C.count_zeros(x)
            if isinstance(x, Says):
                x.capsule.__traceback__ = None
            if isinstance(x, Producer):
                x.capsule = None
                x.calls.clear()
    for x, y in zip(before[:-2], counts(watched)[:-2], strict=True):
        assert abs(x - y) <= 1
    assert objects[0].deleted == objects[1].deleted == objects[2].deleted == 50


NUMPY = tuple(int(part) for part in np.__version__.split(".")[:2])
NUMPY_TYPES = "?bBhHiIlLqQefdFD"


def layouts(array: np.ndarray) -> dict[str, np.ndarray]:
    frozen = array.copy()
    frozen.flags.writeable = False
    packed = np.zeros(array.size * array.itemsize + 1, np.uint8)
    unaligned = packed[1:].view(array.dtype).reshape(array.shape)
    unaligned[...] = array
    return {
        "rows": array,
        "columns": np.asfortranarray(array),
        "backwards": array[::-1, ::-1],
        "gaps": array[::2, 1::3],
        "broadcast": np.broadcast_to(array[:1], array.shape),
        "read_only": frozen,
        "unaligned": unaligned,
        "empty": array[:0],
        "scalar": array[0, :1].reshape(()),
        "moved": np.moveaxis(array.reshape(3, 5, 2, 7), 2, 0),
        "fifteen": array.reshape((1,) * 13 + array.shape),
        "wide": np.concatenate([array] * 40, axis=1)[:, 3:],
    }


@pytest.mark.parametrize("code", NUMPY_TYPES)
def test_numpy(code: str, level: str) -> None:
    """NumPy's own count is the oracle, for every dtype it exports and every layout."""
    random = np.random.default_rng(1)
    array = random.integers(-1, 2, (15, 14)).astype(code)
    if array.dtype.kind in "fc":
        array[random.random(array.shape) < 0.2] = -0.0
        array[0, 0] = np.nan
        array[3, 3] = np.finfo(array.dtype).smallest_subnormal
    if array.dtype.kind == "c":
        array.imag[random.random(array.shape) < 0.5] = -0.0
    for name, view in layouts(array).items():
        if name == "read_only" and NUMPY < (2, 1):
            continue  # NumPy itself refuses to export it
        if name == "fifteen":
            with pytest.raises(ValueError, match="dimensions"):
                _C.count_zeros(view)
            continue
        assert _C.count_zeros(view) == view.size - np.count_nonzero(view), name


@pytest.mark.parametrize("code", ["M8[s]", "U3", "O", ">f4", "g", "V4"])
def test_numpy_types_without_dlpack(code: str) -> None:
    with pytest.raises(BufferError):
        _C.count_zeros(np.zeros(3, code))
