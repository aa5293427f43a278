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
