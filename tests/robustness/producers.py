"""A DLPack producer made of ctypes whose every field can be wrong, and which counts its deleter's
calls. Layouts from DLPack's published header."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

CPU, CUDA, CUDA_HOST = 1, 2, 3
FLOAT32 = (2, 32, 1)

_api = ctypes.pythonapi
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_api.PyCapsule_GetName.restype = ctypes.c_char_p
_api.PyCapsule_GetName.argtypes = [ctypes.py_object]

Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_index", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    _fields_ = (("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", Deleter))


class ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


def _numbers(values: Sequence[int] | None) -> Any:
    if values is None:
        return None
    return (ctypes.c_int64 * max(1, len(values)))(*values)


class Producer:
    """`values` as a producer of float32, with any field replaced."""

    def __init__(
        self,
        values: Sequence[float] = (0.0, 1.0, -0.0, 2.0, 0.0, 3.0),
        *,
        shape: Sequence[int] | None = (6,),
        strides: Sequence[int] | None = None,
        ndim: int | None = None,
        dtype: tuple[int, int, int] = FLOAT32,
        device: tuple[int, int] = (CPU, 0),
        says_device: Any = None,
        offset: int = 0,
        start: int = 0,
        no_data: bool = False,
        version: tuple[int, int] | None = None,
        capsule_name: bytes | None = None,
        deleter: bool = True,
        on_delete: Callable[[], None] | None = None,
        old: bool = False,
    ) -> None:
        self.memory = (ctypes.c_float * len(values))(*values)
        self.shape, self.strides = _numbers(shape), _numbers(strides)
        self.deleted = 0
        self.calls: list[dict[str, Any]] = []
        self.on_delete, self.old = on_delete, old
        self.says_device = device if says_device is None else says_device
        tensor = DLTensor(
            data=None if no_data else ctypes.addressof(self.memory) + start,
            device_type=device[0],
            device_index=device[1],
            ndim=len(shape or ()) if ndim is None else ndim,
            code=dtype[0],
            bits=dtype[1],
            lanes=dtype[2],
            byte_offset=offset,
        )
        if self.shape is not None:
            tensor.shape = ctypes.cast(self.shape, ctypes.POINTER(ctypes.c_int64))
        if self.strides is not None:
            tensor.strides = ctypes.cast(self.strides, ctypes.POINTER(ctypes.c_int64))
        self.deleter = Deleter(self._delete) if deleter else Deleter()
        self.managed: Any
        if version is None:
            self.managed = Managed(tensor, None, self.deleter)
        else:
            self.managed = ManagedVersioned(*version, None, self.deleter, 0, tensor)
        standard = b"dltensor" if version is None else b"dltensor_versioned"
        self.name = standard if capsule_name is None else capsule_name
        self.capsule: Any = None

    def _delete(self, address: int) -> None:
        assert address == ctypes.addressof(self.managed)
        self.deleted += 1
        if self.on_delete is not None:
            self.on_delete()

    def __dlpack__(self, **keywords: Any) -> Any:
        self.calls.append(keywords)
        if self.old and keywords:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.capsule = _api.PyCapsule_New(ctypes.addressof(self.managed), self.name, None)
        return self.capsule

    def __dlpack_device__(self) -> Any:
        return self.says_device

    def capsule_name(self) -> bytes:
        return _api.PyCapsule_GetName(self.capsule)


VERSIONS = [None, (1, 0), (1, 1), (1, 99)]
MANY = 2**62

# What may be said of 6 values, and how many of the elements are zero; None: any number.
HONEST: list[tuple[dict[str, Any], int | None]] = [
    ({}, 3),
    ({"shape": (2, 3)}, 3),
    ({"shape": (2, 3), "strides": (3, 1)}, 3),
    ({"shape": (3, 2), "strides": (1, 3)}, 3),
    ({"shape": (3,), "strides": (2,)}, 3),
    ({"shape": (3,), "strides": (-2,), "start": 16}, 3),
    ({"shape": (4, 3), "strides": (0, 2)}, 12),
    ({"shape": (2,), "offset": 8}, 1),
    ({"shape": (2,), "start": 4, "offset": 4}, 1),
    ({"shape": ()}, 1),
    ({"shape": None, "ndim": 0}, 1),
    ({"shape": (0,)}, 0),
    ({"shape": (0,), "no_data": True}, 0),
    ({"shape": (0, MANY), "no_data": True}, 0),
    ({"shape": (1, 6, 1), "strides": (MANY, 1, -MANY)}, 3),
    ({"device": (CUDA_HOST, 0)}, 3),
    ({"device": (CPU, 77)}, 3),
    ({"shape": (12,), "dtype": (4, 16, 1)}, 9),  # bfloat16 halves of the same floats
    ({"shape": (24,), "dtype": (0, 8, 1)}, 18),
    ({"shape": (24,), "dtype": (6, 8, 1)}, 18),  # bool
    ({"shape": (24,), "dtype": (10, 8, 1)}, 20),  # float8: 0x80 is a zero
    ({"shape": (24,), "dtype": (11, 8, 1)}, 18),  # float8 fnuz: 0x80 is a NaN
    ({"shape": (3,), "dtype": (5, 64, 1)}, 0),  # complex64
    ({"shape": (5,), "start": 1}, None),  # unaligned
    ({"deleter": False}, 3),
    ({"old": True}, 3),
]

# What may not, and how it is refused.
DISHONEST: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"no_data": True}, BufferError),
    ({"no_data": True, "offset": 64}, BufferError),
    ({"offset": 2**64 - 1}, BufferError),
    ({"offset": 2**63}, BufferError),
    ({"start": 2**63, "offset": 2**63 - 1}, BufferError),
    ({"ndim": -1}, ValueError),
    ({"ndim": -(2**31)}, ValueError),
    ({"ndim": 2**31 - 1}, ValueError),
    ({"ndim": 65}, ValueError),
    ({"shape": None, "ndim": 1}, ValueError),
    ({"shape": (-1,)}, ValueError),
    ({"shape": (-2, -3)}, ValueError),
    ({"shape": (-(2**63),)}, ValueError),
    ({"shape": (MANY, MANY)}, ValueError),
    ({"shape": (2**32, 2**32)}, ValueError),
    ({"shape": (2**61,)}, ValueError),
    ({"shape": (3, 2), "strides": (MANY, 1)}, ValueError),
    ({"shape": (3, 3), "strides": (2**57, 2**57)}, ValueError),
    ({"shape": (3,), "strides": (-(2**63),)}, ValueError),
    ({"dtype": (2, 32, 2)}, TypeError),
    ({"dtype": (2, 32, 0)}, TypeError),
    ({"dtype": (2, 33, 1)}, TypeError),
    ({"dtype": (2, 0, 1)}, TypeError),
    ({"dtype": (0, 4, 1)}, TypeError),
    ({"dtype": (3, 64, 1)}, TypeError),  # opaque handle
    ({"dtype": (17, 4, 2)}, TypeError),  # float4 pairs
    ({"dtype": (255, 255, 65535)}, TypeError),
    ({"device": (CUDA, 0), "says_device": (CPU, 0)}, BufferError),
    ({"device": (10, 0), "says_device": (CPU, 0)}, BufferError),
    ({"device": (-1, 0), "says_device": (CPU, 0)}, BufferError),
]
