"""The one door to the C extension: imports it, tells it of torch, notes which way calls went."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import originals, probe, remedy, switches

try:
    from . import _C as _C
except ImportError as error:
    raise ImportError(f"yolov5_utils: {remedy.of(error)}") from error

Unsupported = _C.Unsupported


class HotPath(NamedTuple):
    """What `info` says of a hot path: its C function's name, and the calls so far by way taken."""

    function: str
    calls: dict[str, int]  # "C", "CUDA" and "torch" -> number of calls
    reasons: dict[str, int]  # why torch was taken -> number of calls


HOT_PATHS: dict[str, HotPath] = {
    operation: HotPath(function, {"C": 0, "CUDA": 0, "torch": 0}, {})
    for operation, function in (
        ("ema", "ema_update"),
        ("fuse", "fuse"),
        ("sparsity", "count_module_zeros"),
        ("prune", "prune"),
        ("scale_img", "scale_img"),
        ("time_synchronized", "time_synchronized"),
    )
}

_USE_C = switches.BACKEND.read() != "torch"
_STRICT = switches.STRICT.on()


def refusal(operation: str) -> str | None:
    """Why `operation` cannot run in C at all here, or None where it can."""
    if not hasattr(_C, HOT_PATHS[operation].function):
        return "not in C in this version"
    if not _USE_C:
        return f"{switches.BACKEND.name}=torch"
    return None


def attempt(operation: str, function: Callable[..., Any], *args: Any) -> tuple[bool, Any]:
    """Run `function(*args)` in C: (True, result), or (False, None) where the reference must run.

    The C function has changed nothing when it refuses. Under YOLOV5_UTILS_STRICT=1 a refusal is
    raised as RuntimeError; every other exception passes through.
    """
    reason, result = originals.replaced(operation), None
    if reason is None:
        reason, result = run(function, *args)
    if reason is None:
        HOT_PATHS[operation].calls["C"] += 1
        return True, result
    note_torch(operation, reason)
    return False, None


def run(function: Callable[..., Any], *args: Any) -> tuple[str | None, Any]:
    """Run `function(*args)` in C and count nothing: why not, or None, and its result."""
    if not _USE_C:
        return f"{switches.BACKEND.name}=torch", None
    if probe.is_compiling():
        return "inside torch.compile", None
    try:
        return None, function(*args)
    except Unsupported as why:
        return str(why), None


def note_cuda(operation: str) -> None:
    """The call that is being counted runs in the CUDA library."""
    calls = HOT_PATHS[operation].calls
    calls["C"] -= 1
    calls["CUDA"] += 1


def calls(operation: str) -> dict[str, int]:
    """The calls so far by way taken; those of time_synchronized are counted in C."""
    counted = dict(HOT_PATHS[operation].calls)
    if operation == "time_synchronized":
        counted["C"] += _C.info()["clock_calls"]
    return counted


def note_torch(operation: str, reason: str, count: int = 1) -> None:
    """Count calls that run as torch operations; RuntimeError under YOLOV5_UTILS_STRICT=1."""
    # A graph that counts is compiled anew for each number, in the end not at all.
    if _STRICT or not probe.is_compiling():
        count_torch(operation, reason, count)


def count_torch(operation: str, reason: str, count: int = 1) -> None:
    """`note_torch`, where it is known that torch.compile is not reading."""
    if _STRICT and _USE_C and refusal(operation) is None:
        raise RuntimeError(f"{operation}: C cannot run this call ({reason}), and STRICT is on")
    _, calls, reasons = HOT_PATHS[operation]
    calls["torch"] += count
    reasons[reason] = reasons.get(reason, 0) + count


def _allocate(size_bytes: int, device_index: int) -> torch.Tensor:
    """Memory of a CUDA device, from torch's allocator."""
    device = torch.device("cuda", device_index)
    return torch.empty(max(size_bytes, 1), dtype=torch.uint8, device=device)


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
        self.allocate = _allocate
        self.use_exchange = use_exchange  # False: the capsule way of torch before 2.10


# Beside the extension, if it was built: docs/cuda.md.
CUDA_LIBRARY = Path(_C.__file__).parent / "libyolov5_utils_cuda.so"


def find_cuda_library() -> None:
    """Tell the extension where the CUDA library is; it opens it at the first CUDA tensor."""
    _C.use_cuda_library(CUDA_LIBRARY if CUDA_LIBRARY.exists() else None)


TORCH = TorchFacts()
_C.register_torch(TORCH)
find_cuda_library()
_C.configure(level=switches.CPU.read() or None)
