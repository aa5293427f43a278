"""A GPU's stand-in: tensors of the CPU that the extension takes for tensors of CUDA device 0.

The extension's way to a GPU runs as it is: walk, checks, torch's exchange table, the library's own
table. Replaced are the exchange table's answer to where a tensor lives, the stream, and the memory
that the call asks torch for; the library is a fake one, or the real kernels compiled for the CPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from yolov5_utils import _C, _native

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CAPSULE_NAME = b"dlpack_exchange_api"
FLAGS = ("-std=c11", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Werror")
CUDA = 2  # DLPack's number
CPU = 1


def compiler() -> str | None:
    """The C compiler these need, or None."""
    return shutil.which("gcc") or shutil.which("clang")


def build(source: str, into: Path, *definitions: str) -> Path:
    """A shared library of one of the C files here."""
    found = compiler()
    assert found is not None
    mark = "".join(filter(str.isalnum, "".join(definitions)))
    library = into / f"{Path(source).stem}{mark}.so"
    includes = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'cuda'}"]
    command = [found, *FLAGS, *includes, *(f"-D{d}" for d in definitions), str(HERE / source)]
    subprocess.run([*command, "-o", str(library)], check=True, timeout=120)
    return library


def launchers() -> list[Path]:
    """The CUDA library's sources but for the kernels and their image."""
    return [source for source in (ROOT / "cuda").glob("*.c") if source.name != "image.c"]


def named(library: Path) -> tuple[str, ...]:
    """Definitions for a library that finds the driver in itself."""
    return (
        '-DY5_CUDA_ARCHITECTURES="emulated"',
        "-DY5_CUDA_TOOLKIT=13000",
        f'-DY5_CUDA_DRIVER="{library}"',
    )


def build_launchers(into: Path) -> Path:
    """The CUDA library's launchers, on a driver that does nothing."""
    found, library = compiler(), into / "launchers.so"
    assert found is not None
    command = [found, *FLAGS, f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'cuda'}", *named(library)]
    sources = map(str, (*launchers(), HERE / "null_driver.c"))
    subprocess.run([*command, *sources, "-ldl", "-o", str(library)], check=True, timeout=120)
    return library


def build_emulated(into: Path) -> Path | None:
    """The CUDA library's own sources, compiled for the CPU with tests/emu; None without g++."""
    found = shutil.which("g++")
    if found is None:
        return None
    library = into / "emulated.so"
    emulator = ROOT / "tests" / "emu"
    folders = [f"-I{path}" for path in (emulator / "include", ROOT / "cuda", ROOT / "csrc")]
    common = [found, "-O2", "-ffp-contract=off", "-fPIC", "-w", *folders, *named(library)]
    made = []
    for source in (*launchers(), *emulator.glob("*.cpp")):
        language = ("c++", "-std=c++17") if source.suffix == ".cpp" else ("c", "-std=c11")
        made.append(str(into / f"{source.stem}.o"))
        command = [*common, "-x", *language, "-c", str(source), "-o", made[-1]]
        subprocess.run(command, check=True, timeout=300)
    subprocess.run([found, "-shared", *made, "-ldl", "-o", str(library)], check=True, timeout=300)
    return library


class Record(ctypes.Structure):
    """What the fake library wrote down of its last call."""

    _fields_: ClassVar[list[Any]] = [
        (name, ctypes.c_int64)
        for name in ("checks", "calls", "stream", "device", "count", "first", "go_on")
    ]


class Times(ctypes.Structure):
    """When the exchange table was asked what, in nanoseconds of time.perf_counter_ns()."""

    _fields_: ClassVar[list[Any]] = [
        (name, ctypes.c_int64) for name in ("borrowed", "last", "first_ns", "last_ns", "stream_ns")
    ]


class Launches(ctypes.Structure):
    """What the driver that does nothing wrote down, in the same nanoseconds."""

    _fields_: ClassVar[list[Any]] = [
        (name, ctypes.c_int64) for name in ("launches", "entered_ns", "launched_ns")
    ]


@contextlib.contextmanager
def never_called(record: Record) -> Iterator[None]:
    """The library is not called meanwhile."""
    calls = record.calls
    yield
    assert record.calls == calls


def _contents(library: Path, getter: str, kind: type[Any]) -> Any:
    """A structure of a library that is loaded; it changes with every call."""
    get = ctypes.CDLL(str(library))[getter]
    get.restype = ctypes.POINTER(kind)
    return get().contents


def record_of(library: Path) -> Record:
    """The record of a fake library."""
    return _contents(library, "fake_record_get", Record)


def times_of(table: Path) -> Times:
    """The times of a stand-in's exchange table."""
    return _contents(table, "stand_in_times_get", Times)


def launches_of(library: Path) -> Launches:
    """The record of `build_launchers()`' driver."""
    return _contents(library, "null_record_get", Launches)


class Facts(_native.TorchFacts):
    """What the extension is told of torch, with memory of the CPU in place of a GPU's."""

    def __init__(self, allocate: Callable[[int, int], Tensor] | None = None) -> None:
        super().__init__()
        self.allocate = allocate or self.memory

    @staticmethod
    def memory(size_bytes: int, device_index: int) -> Tensor:
        """Rubbish, at an address as round as torch's allocator gives on a GPU."""
        room = torch.full((size_bytes + 512,), 0xA5, dtype=torch.uint8)
        start = -room.data_ptr() % 512
        return room[start : start + max(size_bytes, 1)]


class StandIn:
    """The exchange table in place of torch's, as long as `with stand_in(...)` lasts."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._except = library.stand_in_except
        self._except.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]

    def move(self, *tensors: Tensor, device_type: int = CUDA, index: int = 1) -> None:
        """Let these tensors, and no others, seem to live elsewhere."""
        self._except(None, 0, 0)
        self.move_also(*tensors, device_type=device_type, index=index)

    def move_also(self, *tensors: Tensor, device_type: int = CUDA, index: int = 1) -> None:
        """Let these tensors seem to live elsewhere, too."""
        for tensor in tensors:
            assert self._except(tensor.data_ptr(), device_type, index) == 0


@contextlib.contextmanager
def stand_in(table: Path, cuda_library: Path | None) -> Iterator[StandIn]:
    """Let CPU tensors seem to be on CUDA device 0, for which `cuda_library` is used."""
    api = ctypes.pythonapi
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    api.PyCapsule_New.restype = ctypes.py_object
    api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    library = ctypes.CDLL(str(table))
    start = library.stand_in_start
    start.restype, start.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    own = torch.Tensor.__dlpack_c_exchange_api__
    wrapped = start(api.PyCapsule_GetPointer(own, CAPSULE_NAME))
    replaced = StandIn(library)
    torch.Tensor.__dlpack_c_exchange_api__ = api.PyCapsule_New(wrapped, CAPSULE_NAME, None)
    try:
        assert _C.register_torch(Facts())
        _C.use_cuda_library(cuda_library)
        yield replaced
    finally:
        torch.Tensor.__dlpack_c_exchange_api__ = own
        replaced.move()
        _C.register_torch(_native.TorchFacts())
        _native.find_cuda_library()
