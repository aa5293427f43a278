"""The hot paths of yolov5_utils in C."""

from os import PathLike
from typing import Any, TypedDict, type_check_only

import torch
from torch import Generator, Tensor, nn

class Unsupported(Exception):
    """C cannot do this call with the original's bits. Nothing was changed; torch can do it."""

@type_check_only
class Settings(TypedDict):
    level: str
    parallel_bytes: int
    gil_bytes: int

@type_check_only
class Info(TypedDict):
    compiler: str
    limited_api: bool
    sanitized: bool
    levels_compiled: list[str]
    levels_found: list[str]
    level: str
    exchange_table: bool
    thread_pool: bool
    parallel_bytes: int
    gil_bytes: int
    clock_calls: int

@type_check_only
class CudaInfo(TypedDict):
    problem: str | None  # why it cannot be used
    architectures: str | None
    toolkit: int

def ema_update(
    average: nn.Module, source: nn.Module, decay: float, done: list[bool] | None = None
) -> int | None:
    """Move every floating entry of average.state_dict() towards source's entry of that key."""

def ema_check(average: nn.Module, source: nn.Module) -> None:
    """What ema_update would raise of these two modules, which stay untouched."""

def count_module_zeros(
    module: nn.Module, limit: int = ...
) -> tuple[int, int, int, float, float] | tuple[int, int, Tensor]:
    """(parameters, elements, zeros, float32 share, float64 share) of module.parameters()."""

def count_zeros(tensor: Any) -> int:
    """The number of zeros of a tensor or any object with __dlpack__ in the CPU's memory."""

def sum_zeros(zeros: Tensor, sum: Tensor) -> None:
    """Add up int64 numbers on a CUDA device in the type of sum, which becomes their sum."""

def fuse(convs: list[nn.Module], bns: list[nn.Module], prototype: nn.Conv2d) -> list[nn.Conv2d]:
    """A new nn.Conv2d for each convolution and its batch norm, made like `prototype`."""

def prune(
    weights: list[Tensor],
    pruned: list[Tensor] | None,
    counts: list[int],
    like_torch: bool = False,
) -> list[int] | int:
    """Fill `pruned` with the weights, counts[i] of each zeroed; the numbers of ambiguous layers."""

def scale_img(
    image: Tensor,
    output: Tensor = ...,
    size: tuple[int, int] = ...,
    variant: int = ...,
) -> int | None:
    """Resize `image` to `size` (height, width) into `output`, or with it alone only check it."""

def time_synchronized() -> float:
    """time.time() once the current CUDA device, where one is available, is idle."""

def skip_random(generator: Generator, draws: int) -> None:
    """Leave a torch.Generator of the CPU as so many draws of 32 bits leave it."""

def register_torch(facts: object) -> bool:
    """Tell the extension of torch: an object with the attributes of _native.TorchFacts."""

def fuse_on_gpu(pairs: list[tuple[Any, ...]], doubtful: Tensor) -> int:
    """Fuse tensors of one CUDA device into those at the end of each tuple."""

def new_convolution(conv: nn.Module, prototype: nn.Conv2d, device: torch.device) -> nn.Conv2d:
    """An nn.Conv2d with a bias of conv's sizes on the device, made like `prototype`."""

def use_cuda_library(path: str | PathLike[str] | None) -> None:
    """Where the CUDA library is, or None. It is opened at the first CUDA tensor."""

def cuda_info(device: int | None = None) -> CudaInfo:
    """Facts of the CUDA library, which is opened for it."""

def configure(
    level: str | None = None, parallel_bytes: int | None = None, gil_bytes: int | None = None
) -> Settings:
    """Change what is not None and return the settings as they were before."""

def info() -> Info:
    """Facts of this build and this machine."""
