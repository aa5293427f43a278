"""What the extension knows of torch, without torch: tensors that an exchange table of ctypes
describes, with any field wrong where a test wants that, and modules that hold them. So odd tensors
reach every hot path, and every function runs in a Python that has no torch."""

from __future__ import annotations

import ctypes
import sys
import time
import types
from collections.abc import Sequence
from typing import Any

from .producers import DLTensor, Producer

EXCHANGE = b"dlpack_exchange_api"


class Dtype:
    is_floating_point = True


class Tensor(list):  # type: ignore[type-arg]  # whose methods in C stand for torch's
    """Described as its producer says."""

    dtype = Dtype()
    requires_grad = False

    def __init__(self, producer: Producer) -> None:
        super().__init__()
        self.producer = producer


class Parameter(Tensor):
    """The other type of plain tensors."""


class Base:
    """What torch's own base of tensors has: methods in C, which do nothing to an empty list."""

    sqrt_ = list.reverse
    is_neg = list.reverse
    storage_offset = list.__sizeof__


def floats(*shape: int, value: float = 1.0) -> Tensor:
    """A tensor of float32."""
    count = 1
    for size in shape:
        count *= size
    return Tensor(Producer([value] * max(count, 1), shape=shape))


class Header(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
    )


Borrow = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(DLTensor))


class Table(ctypes.Structure):
    _fields_ = (
        ("header", Header),
        ("unused", ctypes.c_void_p * 3),
        ("borrow", Borrow),
        ("current_stream", ctypes.c_void_p),
    )


@Borrow
def borrow(tensor: Tensor, out: Any) -> int:
    out[0] = tensor.producer.managed.tensor
    return 0


TABLE = Table(Header(1, 3, None), (ctypes.c_void_p * 3)(), borrow, None)
_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
CAPSULE = _new(ctypes.addressof(TABLE), EXCHANGE, None)
Tensor.__dlpack_c_exchange_api__ = CAPSULE  # type: ignore[attr-defined]


class Module:
    """As nn.Module keeps its entries."""

    def __init__(self, *buffers: Any, **modules: Any) -> None:
        self._parameters: dict[str, Any] = {}
        self._buffers = {f"b{i}": buffer for i, buffer in enumerate(buffers)}
        self._modules = modules
        self._non_persistent_buffers_set: set[str] = set()

    def state_dict(self) -> None: ...
    def parameters(self) -> None: ...
    def named_parameters(self) -> None: ...


class Convolution(Module):
    """As nn.Conv2d states its sizes."""

    def __init__(self, outputs: int = 2, inputs: int = 1, side: int = 3) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups = inputs, outputs, 1
        self.kernel_size, self.padding = (side, side), (0, 0)
        self.stride = self.dilation = (1, 1)
        self._reversed_padding_repeated_twice = None
        self._parameters = {"weight": floats(outputs, inputs, side, side), "bias": None}


class Norm(Module):
    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.eps = 1e-5
        self._parameters = {"weight": floats(channels), "bias": floats(channels)}
        self._buffers = {"running_mean": floats(channels), "running_var": floats(channels)}


class Facts:
    """The attributes of _native.TorchFacts."""

    tensor_type, parameter_type, tensor_base = Tensor, Parameter, Base
    module_type, convolution_type, batch_norm_type = Module, Convolution, Norm
    ordered_dict_type = dict
    guards = ((lambda: False, "never"),)
    increments_lists = use_exchange = half_scalars_stay_float32 = True
    byte_types = ()
    version_methods = (lambda t: t, lambda t, size, stride: t, lambda t: t)
    increment_version = to_dlpack = current_stream = layout = None

    def __init__(self) -> None:
        torch = types.ModuleType("torch")
        torch.cuda = torch  # type: ignore[attr-defined]
        torch.is_available = torch.synchronize = self.is_grad_enabled  # type: ignore[attr-defined]
        functions = (self.is_grad_enabled, self.is_grad_enabled, time.time)
        self.clock = (torch, torch, torch, sys.modules["time"], *functions)

    @staticmethod
    def empty(*sizes: int, **keywords: Any) -> Tensor:
        return floats(*sizes)

    @staticmethod
    def empty_like(tensor: Tensor) -> Tensor:
        shape: Sequence[int] = list(tensor.producer.shape)
        return floats(*shape)

    @staticmethod
    def is_grad_enabled() -> bool:
        return False

    @staticmethod
    def allocate(size_bytes: int, device_index: int) -> Tensor:
        raise MemoryError
