"""The one door to the C extension: imports it, tells it of torch, runs its functions."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import install_hint, probe, switches

if (0, 0) < probe.release() < (1, 13):
    raise ImportError(
        f"yolov5_utils: torch {torch.__version__} is older than 1.13, which is needed"
    )
try:
    install_hint.refuse_truncated(f"{__package__}._C")
    from . import _C as _C
except ImportError as error:
    raise ImportError(f"yolov5_utils: {install_hint.for_broken_extension(error)}") from error

switches.name_misspelt()
Unsupported = _C.Unsupported


_USE_C = switches.BACKEND.read() != "torch"


def switched_off() -> str | None:
    """Why nothing may run in C in this process, or None."""
    return None if _USE_C else f"{switches.BACKEND.name}=torch"


def run(function: Callable[..., Any], *args: Any) -> tuple[str | None, Any]:
    """Run `function(*args)` in C and count nothing: why not, or None, and its result."""
    if not _USE_C:
        return switched_off(), None
    if probe.is_compiling():
        return "inside torch.compile", None
    try:
        return None, function(*args)
    except Unsupported as why:
        return str(why), None


def _allocate(size_bytes: int, device_index: int) -> torch.Tensor:
    """Memory of a CUDA device, from torch's allocator."""
    device = torch.device("cuda", device_index)
    return torch.empty(max(size_bytes, 1), dtype=torch.uint8, device=device)


def _layout() -> tuple[torch.Tensor, int, int] | None:
    """A tensor, the address of torch's C++ tensor behind it and of its storage, where told."""
    tensor: Any = torch.empty(2, device="cpu")
    impl = probe.answer(lambda: tensor._cdata)
    storage = probe.answer(lambda: tensor.untyped_storage()._cdata)
    return (tensor, impl, storage) if isinstance(impl, int) and isinstance(storage, int) else None


class TorchFacts:
    """What the C extension needs to know of torch."""

    def __init__(self, use_exchange: bool = True) -> None:
        self.tensor_type = torch.Tensor
        self.tensor_base = torch.Tensor.__base__  # torch's own, in C
        self.parameter_type = torch.nn.Parameter
        self.module_type = torch.nn.Module
        self.convolution_type = torch.nn.Conv2d
        self.batch_norm_type = torch.nn.BatchNorm2d
        self.empty = torch.empty
        self.empty_like = torch.empty_like
        self.is_grad_enabled = torch.is_grad_enabled
        self.ordered_dict_type = OrderedDict  # of modules before torch 2.4
        self.guards = probe.GUARDS  # where one answers with something true, torch has to run
        # What time_synchronized looks at, as it is now: what differs later is called as it is.
        self.clock = (
            *(torch, torch._C, torch.cuda, time),
            *(torch.cuda.is_available, torch.cuda.synchronize, time.time),
        )
        # Raises the version of a tensor (torch 2.1 and later), or of each in a list (2.5).
        increment: Any = probe.find("_C._increment_version")
        self.increments_lists = probe.takes(increment, [])
        one = torch.empty(0, device="cpu")
        takes_one = self.increments_lists or probe.takes(increment, one)
        self.increment_version = increment if takes_one else None
        base: Any = self.tensor_base
        self.version_methods = (base.detach, base.as_strided, base.zero_)
        self.to_dlpack = probe.find("_C._to_dlpack")
        self.byte_types = (torch.int8, torch.uint8, torch.bool)  # other types of 8 bits have fewer
        self.half_scalars_stay_float32 = probe.release() >= (2, 1)
        # CUDA device index -> its current stream, where the exchange table does not tell.
        self.current_stream = probe.find("_C._cuda_getCurrentRawStream")
        self.layout = _layout()  # where a walk may ask the caches for
        self.allocate = _allocate
        self.use_exchange = use_exchange  # False: the capsule way of torch before 2.10


# Beside the extension, if it was built: docs/gpu.md.
CUDA_LIBRARY = Path(_C.__file__).parent / "libyolov5_utils_cuda.so"


def find_cuda_library() -> None:
    """Tell the extension where the CUDA library is; it opens it at the first CUDA tensor."""
    _C.use_cuda_library(CUDA_LIBRARY if CUDA_LIBRARY.exists() else None)


TORCH = TorchFacts()
_C.register_torch(TORCH)
find_cuda_library()
switches.set_level(_C.configure)
