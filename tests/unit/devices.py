"""Places for the tensors of hot paths: the CPU, a GPU with the CUDA library and without it, and the
stand-in of a GPU, for which the library is compiled for the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from yolov5_utils import _C, _native
from yolov5_utils.ops import OPERATIONS, fuse_gpu

from ..cuda.stand_in import build, build_emulated, compiler, stand_in


class Device(NamedTuple):
    """A place for tensors, and the way calls take there."""

    place: torch.device
    way: str  # "C", "CUDA" or "torch"
    real: bool = True


def need_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The exchange table of the stand-in, and the CUDA library compiled for the CPU."""
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip(f"torch {torch.__version__} has no exchange table to stand in for")
    folder = tmp_path_factory.mktemp("stand-in")
    library = build_emulated(folder) if compiler() else None
    if library is None:
        pytest.skip("no compiler for C and C++")
    return build("stand_in.c", folder), library


def exact_sqrt(given: Tensor) -> Tensor:
    """torch.sqrt as CUDA has it: correctly rounded, which the CPU's is not where MKL does it."""
    wide = given.double().numpy()
    return torch.from_numpy(np.sqrt(wide)).to(given.dtype)


@pytest.fixture(params=("cpu", "stand-in", "cuda", "cuda-torch"))
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """Each place in turn; skipped where there is no GPU, or no CUDA library for it."""
    if request.param == "cpu":
        yield Device(torch.device("cpu"), "C")
        return
    if request.param == "stand-in":
        table, library = request.getfixturevalue("emulated")
        monkeypatch.setattr(fuse_gpu, "is_on_gpu", lambda conv: True)
        monkeypatch.setattr(torch, "sqrt", exact_sqrt)
        monkeypatch.setattr(OPERATIONS["fuse"].originals, "_table", ())  # which would see that
        threads = torch.get_num_threads()
        torch.set_num_threads(2)  # else another of torch's kernels resizes images
        with stand_in(table, library):
            yield Device(torch.device("cpu"), "CUDA", real=False)
        torch.set_num_threads(threads)
        return
    need_gpu()
    gpu = torch.device("cuda", 0)
    if request.param == "cuda-torch":
        _C.use_cuda_library(None)
        yield Device(gpu, "torch")
        _native.find_cuda_library()
        return
    problem = _C.cuda_info(0)["problem"]
    if problem is not None:
        pytest.skip(problem)
    yield Device(gpu, "CUDA")


def calls_of(operation: str) -> dict[str, int]:
    return dict(OPERATIONS[operation].calls)
