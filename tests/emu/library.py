"""cuda/y5_cuda.h through ctypes: the CUDA library's table, or an emulated one's, on torch tensors.
Knows nothing of the package and its C extension."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

ABI_VERSION = 4
SCALE_VARIANTS = 54
SCALE_LIKELY = 27
SCALE_LIKELY_CHANNELS_LAST = 29
# By the number of each in csrc/core/y5.h; what a number stands for may have several types in torch.
_NUMBERED = (
    *("float32", "float64", "float16", "bfloat16", "complex32", "complex64", "complex128"),
    *("int8 uint8 bool", "int16", "int32", "int64"),
    *("float8_e4m3fn float8_e5m2", "float8_e4m3fnuz float8_e5m2fnuz"),
)
DTYPES = {
    getattr(torch, name): number for number, names in enumerate(_NUMBERED) for name in names.split()
}
STATUS = ("OK", "NO_DRIVER", "NO_KERNEL", "NOT_NOW", "BAD_ARGUMENT", "FAILED")

Pointer = ctypes.c_void_p
Int32 = ctypes.c_int32
Int64 = ctypes.c_int64


def structure(name: str, **fields: Any) -> Any:
    """A C struct with these fields, in this order."""
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


Error = structure("Error", code=Int32, message=ctypes.c_char * 380)
Where = structure("Where", stream=Pointer, device=Int32, reserved=Int32)

# The items of csrc/core/items.h.
EmaPair = structure(
    "EmaPair",
    average=Pointer, source=Pointer, numel=Int64, average_dtype=Int32, source_dtype=Int32,
)  # fmt: skip
Elements = structure("Elements", data=Pointer, numel=Int64, dtype=Int32)
PruneLayer = structure(
    "PruneLayer",
    weights=Pointer, pruned=Pointer, numel=Int64, count=Int64, dtype=Int32,
    ambiguous=ctypes.c_bool,
)  # fmt: skip
FusePair = structure(
    "FusePair",
    weight=Pointer, bias=Pointer, gamma=Pointer, beta=Pointer, mean=Pointer, variance=Pointer,
    fused_weight=Pointer, fused_bias=Pointer, epsilon=ctypes.c_double, rows=Int64, columns=Int64,
    dtype=Int32, fused_dtype=Int32,
)  # fmt: skip
Axis = structure("Axis", input=Int64, resized=Int64, output=Int64)
ScaleImg = structure(
    "ScaleImg",
    image=Pointer, output=Pointer, planes=Int64, interleaved=Int64, channels=Int64, rows=Axis,
    columns=Axis, dtype=Int32, variant=Int32,
)  # fmt: skip


def function(*arguments: Any) -> Any:
    """A function of the table that ends with a status and says what went wrong."""
    return ctypes.CFUNCTYPE(Int32, *arguments, ctypes.POINTER(Error))


_LIST = (ctypes.POINTER(Where), Pointer, Int64)  # where, the items and their number
Api = structure(
    "Api",
    abi_version=ctypes.c_uint32,
    struct_bytes=ctypes.c_uint32,
    toolkit_version=Int32,
    reserved=Int32,
    architectures=ctypes.c_char_p,
    check_device=function(Int32),
    ema_update=function(*_LIST, ctypes.c_double),
    sparsity_count=function(*_LIST, Pointer, Int64),
    fuse=function(*_LIST, Pointer),
    prune_workspace_bytes=ctypes.CFUNCTYPE(Int64, Pointer, Int64),
    prune=function(*_LIST, Pointer, Int64),
    scale_img=function(ctypes.POINTER(Where), ctypes.POINTER(ScaleImg)),
    sparsity_sum=function(*_LIST, Int32, Pointer),
)


class LibraryError(RuntimeError):
    """A status other than OK: its name, the runtime's code, the library's sentence."""

    def __init__(self, status: int, error: Error) -> None:
        self.status = STATUS[status]
        self.code = error.code
        self.message = error.message.decode()
        super().__init__(f"{self.status}: {self.message}")


class Pair(NamedTuple):
    """What fuse takes of one convolution and the batch norm behind it."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    gamma: torch.Tensor
    beta: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    epsilon: float


def bytes_on(device: torch.device, count: int) -> torch.Tensor:
    """Workspace at an address that is a multiple of 256, full of rubbish."""
    memory = torch.full((count + 256,), 0xA5, dtype=torch.uint8, device=device)
    start = -memory.data_ptr() % 256
    return memory[start : start + count]


class Library:
    """The functions of one library, on gapless tensors of one device."""

    def __init__(self, path: str | Path) -> None:
        self.shared_object = ctypes.CDLL(str(path))
        get = self.shared_object.y5_cuda_api_get
        get.restype = ctypes.POINTER(Api)
        self.api = get().contents

    def where(self, device: torch.device) -> Where:
        """The device and torch's current stream on it."""
        if device.type != "cuda":
            return Where(None, 0, 0)
        stream = torch.cuda.current_stream(device)
        return Where(stream.cuda_stream, stream.device_index, 0)

    def call(self, name: str, *arguments: Any) -> None:
        error = Error()
        status = getattr(self.api, name)(*arguments, ctypes.byref(error))
        if status != 0:
            raise LibraryError(status, error)

    def ema_update(
        self,
        pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
        decay: float,
    ) -> None:
        items = (EmaPair * len(pairs))(
            *(
                EmaPair(a.data_ptr(), s.data_ptr(), a.numel(), DTYPES[a.dtype], DTYPES[s.dtype])
                for a, s in pairs
            )
        )
        self.call("ema_update", self.where(pairs[0][0].device), items, len(pairs), decay)

    def sparsity_count(self, tensors: Sequence[torch.Tensor], each: bool) -> torch.Tensor:
        device = tensors[0].device
        items = (Elements * len(tensors))(
            *(Elements(t.data_ptr(), t.numel(), DTYPES[t.dtype]) for t in tensors)
        )
        zeros = torch.full((len(tensors) if each else 1,), -7, dtype=torch.int64, device=device)
        result = (zeros.data_ptr(), zeros.numel())
        self.call("sparsity_count", self.where(device), items, len(tensors), *result)
        return zeros

    def sparsity_sum(self, zeros: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        total = torch.full((), -7, dtype=dtype, device=zeros.device)
        where, numbers = self.where(zeros.device), (zeros.data_ptr(), zeros.numel())
        self.call("sparsity_sum", where, *numbers, DTYPES[dtype], total.data_ptr())
        return total

    def fuse(
        self, pairs: Sequence[Pair], fused_dtype: torch.dtype | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
        """Weights, biases and flags of all pairs."""
        device = pairs[0].weight.device
        weights, biases, items = [], [], []
        for pair in pairs:
            dtype = fused_dtype or pair.weight.dtype
            weights.append(torch.full_like(pair.weight, 9.5, dtype=dtype))
            biases.append(torch.full_like(pair.gamma, 9.5, dtype=dtype))
            items.append(
                FusePair(
                    pair.weight.data_ptr(),
                    None if pair.bias is None else pair.bias.data_ptr(),
                    pair.gamma.data_ptr(),
                    pair.beta.data_ptr(),
                    pair.mean.data_ptr(),
                    pair.variance.data_ptr(),
                    weights[-1].data_ptr(),
                    biases[-1].data_ptr(),
                    pair.epsilon,
                    pair.weight.shape[0],
                    pair.weight[0].numel(),
                    DTYPES[pair.weight.dtype],
                    DTYPES[dtype],
                )
            )
        flags = torch.full((len(pairs),), 7, dtype=torch.int32, device=device)
        table = (FusePair * len(items))(*items)
        self.call("fuse", self.where(device), table, len(items), flags.data_ptr())
        return weights, biases, flags

    def prune(self, layers: Sequence[tuple[torch.Tensor, int]]) -> list[torch.Tensor]:
        device = layers[0][0].device
        results = [torch.full_like(weights, 9.5) for weights, _ in layers]
        items = (PruneLayer * len(layers))(
            *(
                PruneLayer(w.data_ptr(), r.data_ptr(), w.numel(), k, DTYPES[w.dtype])
                for (w, k), r in zip(layers, results, strict=True)
            )
        )
        workspace = bytes_on(device, self.api.prune_workspace_bytes(items, len(layers)))
        memory = (workspace.data_ptr(), workspace.numel())
        self.call("prune", self.where(device), items, len(layers), *memory)
        return results

    def scale_img(
        self,
        image: torch.Tensor,
        resized: tuple[int, int],
        padded: tuple[int, int],
        variant: int,
    ) -> torch.Tensor:
        batch, channels, rows, columns = image.shape
        interleaved = not image.is_contiguous()
        output = torch.full((batch, channels, *padded), 9.5, dtype=image.dtype, device=image.device)
        if interleaved:
            output = output.contiguous(memory_format=torch.channels_last)
        job = ScaleImg(
            image.data_ptr(),
            output.data_ptr(),
            batch if interleaved else batch * channels,
            channels if interleaved else 1,
            channels,
            Axis(rows, resized[0], padded[0]),
            Axis(columns, resized[1], padded[1]),
            DTYPES[image.dtype],
            variant,
        )
        self.call("scale_img", self.where(image.device), ctypes.byref(job))
        return output
