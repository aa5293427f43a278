"""Opening the CUDA library: one clear sentence for each thing that can be wrong with it, the same
one every time; calls then take torch, and CPU tensors never notice."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.emu.library import ABI_VERSION, Api
from tests.support import takes
from yolov5_utils import _C, _native
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.torch_utils import ModelEMA, sparsity

from .stand_in import Facts, Record, StandIn, never_called

Start = Callable[[Path | None], StandIn]
Built = Callable[..., Path]
Faked = Callable[..., tuple[StandIn, Record]]

NO_DRIVER, NO_KERNEL, NOT_NOW, BAD_ARGUMENT, FAILED = range(1, 6)

WRONG = {
    "another ABI": (
        ["FAKE_ABI_VERSION=7"],
        rf"^the CUDA library has ABI version 7, this extension needs {ABI_VERSION}: build ",
    ),
    "a short table": (
        ["FAKE_BYTES=40"],
        r"^the CUDA library's table has 40 bytes, this extension needs \d+: build the extension",
    ),
    "another ABI and no table behind it": (
        ["FAKE_ABI_VERSION=2", "FAKE_BYTES=8"],
        rf"^the CUDA library has ABI version 2, this extension needs {ABI_VERSION}",
    ),
    "another symbol": (
        ["FAKE_SYMBOL=something_else"],
        r"\.so is no CUDA library of this package: it lacks y5_cuda_api_get$",
    ),
    "no table": (["FAKE_NO_TABLE"], r"^the CUDA library gave no table: "),
    **{
        f"{name} missing": ([f"FAKE_LACKS={name}"], r"^the CUDA library's table lacks a function: ")
        for name, kind in Api._fields_
        if issubclass(kind, (ctypes._Pointer, ctypes._CFuncPtr, ctypes.c_char_p))
    },
    "no driver": ([f"FAKE_CHECK_STATUS={NO_DRIVER}"], r"^the fake library says 1$"),
    "no kernel for the chip": ([f"FAKE_CHECK_STATUS={NO_KERNEL}"], r"^the fake library says 2$"),
    "no such device": ([f"FAKE_CHECK_STATUS={BAD_ARGUMENT}"], r"^the fake library says 4$"),
}


def model(seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))
    with torch.no_grad():
        for tensor in made.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return made


def pair_to_fuse() -> tuple[Any, ...]:
    """What fuse_on_gpu takes of a convolution and a batch norm."""
    weight, vectors = torch.ones(2, 3, 1, 1), [torch.ones(2) for _ in range(5)]
    return (weight, *vectors, torch.empty(2, 3, 1, 1), torch.empty(2), 1e-3)


def refusal() -> str:
    """Why the extension cannot update an EMA of tensors that seem to be on a GPU."""
    average, source = model(), model(1)
    before = copy.deepcopy(average.state_dict())
    with pytest.raises(_C.Unsupported) as caught:
        _C.ema_update(average, source, 0.5)
    for key, value in average.state_dict().items():
        assert torch.equal(value, before[key])
    return str(caught.value)


@pytest.mark.parametrize("wrong", WRONG)
def test_each_wrong_library_has_its_sentence(built: Built, gpu: Start, wrong: str) -> None:
    definitions, sentence = WRONG[wrong]
    gpu(built("fake_library.c", *definitions))
    first = refusal()
    assert first == refusal() == _C.cuda_info(0)["problem"]
    with pytest.raises(_C.Unsupported, match=sentence):
        _C.prune([torch.ones(1, 1, 1, 1)], None, [0])


def test_missing_libraries(gpu: Start, tmp_path: Path) -> None:
    gpu(None)
    assert refusal() == "the CUDA library is not installed (docs/gpu.md)"
    _C.use_cuda_library(tmp_path / "nothing.so")
    assert refusal().startswith("the CUDA library cannot be loaded: ")
    assert "nothing.so" in refusal()
    (tmp_path / "text.so").write_text("no library")
    _C.use_cuda_library(tmp_path / "text.so")
    assert refusal().startswith("the CUDA library cannot be loaded: ")


def test_libraries_that_are_cut_off(built: Built, gpu: Start, tmp_path: Path) -> None:
    """As by a disk that was full; the loader itself would end the process with SIGBUS."""
    whole = built("fake_library.c", "FAKE_CUT_OFF").read_bytes()
    gpu(None)
    for size in (0, 63, 64, 1000, 4096, len(whole) // 2, len(whole) - 1):
        path = tmp_path / f"{size}.so"
        path.write_bytes(whole[:size])
        _C.use_cuda_library(path)
        assert refusal().startswith(
            "the CUDA library cannot be loaded: "
            if size < 64
            else f"the CUDA library is cut off ({path}): install"
        )


def test_a_path_that_is_no_text(gpu: Start) -> None:
    gpu(None)
    _C.use_cuda_library(b"/nowhere/\xff\xfe.so")
    assert refusal().startswith("the CUDA library cannot be loaded: ")
    assert _C.cuda_info()["problem"].startswith("the CUDA library cannot be loaded: ")
    for wrong in (3, object()):
        with pytest.raises(TypeError):
            _C.use_cuda_library(wrong)
    with pytest.raises(ValueError, match="null"):
        _C.use_cuda_library("with\0null")


def test_the_call_takes_torch_and_says_why(gpu: Start) -> None:
    gpu(None)
    path, why = OPERATIONS["ema"], "the CUDA library is not installed (docs/gpu.md)"
    counted = path.reasons.get(why, 0)
    ema, source = ModelEMA(model()), model(1)
    expected = copy.deepcopy(ema.ema).state_dict()
    decay = ema.decay(1)
    with takes("ema", "torch"):
        ema.update(source)
    for key, value in ema.ema.state_dict().items():
        if value.is_floating_point():
            new = expected[key].mul_(decay).add_(source.state_dict()[key] * (1 - decay))
            assert torch.equal(value, new)
    assert path.reasons[why] == counted + 1


def test_tensors_of_the_cpu_never_open_it(built: Built) -> None:
    """A library with a fault changes nothing for them, and nobody asks for a device."""
    library = built("fake_library.c", f"FAKE_CHECK_STATUS={NO_DRIVER}", "FAKE_NEVER_OPENED")
    try:
        _C.use_cuda_library(library)
        ema = ModelEMA(model())
        with takes("ema"):
            ema.update(model(1))
        assert sparsity(model()) == 0
        assert str(library) not in Path("/proc/self/maps").read_text()
    finally:
        _native.find_cuda_library()


def test_each_device_is_asked_once(faked: Faked) -> None:
    stand_in, record = faked("FAKE_ASKED_ONCE")
    for _ in range(3):
        assert _C.ema_update(model(), model(1), 0.5) == 0
    assert (record.checks, record.calls, record.device, record.stream) == (1, 3, 0, 0x5000)
    weight, pruned = torch.ones(2, 2, 1, 1), torch.empty(2, 2, 1, 1)

    def allocate(size: int, device: int) -> torch.Tensor:
        memory = Facts.memory(size, device)
        stand_in.move_also(memory, index=device)
        return memory

    _C.register_torch(Facts(allocate))
    stand_in.move(weight, pruned, index=3)
    for _ in range(2):
        assert _C.prune([weight], [pruned], [1]) == 3
    assert (record.checks, record.calls, record.device, record.stream) == (2, 5, 3, 0x5003)
    stand_in.move(weight, pruned, index=200)  # more than torch can have
    with pytest.raises(_C.Unsupported, match="CUDA device 200, allowed are 0 to 127"):
        _C.prune([weight], [pruned], [1])
    assert record.checks == 2


@pytest.mark.parametrize(
    ("status", "kind"), [(NOT_NOW, _C.Unsupported), (FAILED, RuntimeError)], ids=("full", "failed")
)
def test_a_device_that_fails_today_is_asked_again(
    faked: Faked, status: int, kind: type[Exception]
) -> None:
    """Out of memory, busy, failed: something of this call, and no verdict on the device."""
    _, record = faked(f"FAKE_CHECK_STATUS={status}", "FAKE_CHECKS_FAILED=5")
    average, weight, image = model(), torch.ones(2, 2, 1, 1), torch.ones(1, 1, 4, 4)
    before = copy.deepcopy(average.state_dict())
    for call in (
        lambda: _C.ema_update(average, model(1), 0.5),
        lambda: _C.count_module_zeros(model()),
        lambda: _C.prune([weight], [weight], [1]),
        lambda: _C.scale_img(image),
    ):
        with pytest.raises(kind, match=f"the fake library says {status}$"):
            call()
    assert _C.cuda_info(0)["problem"] == f"the fake library says {status}"
    assert (record.checks, record.calls) == (5, 0)
    for key, value in average.state_dict().items():
        assert torch.equal(value, before[key])
    for _ in range(2):
        assert _C.ema_update(average, model(1), 0.5) == 0
    assert (record.checks, record.calls) == (6, 2)


@contextlib.contextmanager
def once_asked(record: Record, change: Callable[[], object]) -> Iterator[None]:
    """Another thread makes a change while a device is asked, which takes until then."""

    def wait_and_change() -> None:
        while record.checks == 0:
            time.sleep(0.001)
        change()
        record.go_on = 1

    thread = threading.Thread(target=wait_and_change)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_others_run_while_a_device_is_asked(faked: Faked) -> None:
    """Starting a device takes long; what another thread does meanwhile is seen afterwards."""
    _, record = faked("FAKE_CHECK_WAITS=1")
    weight, other = torch.ones(9, 9, 1, 1), torch.zeros(9, 9, 1, 1)
    with once_asked(record, lambda: setattr(weight, "data", other)):
        assert _C.prune([weight], [torch.empty_like(weight)], [1]) == 0
    assert record.first == other.data_ptr() == weight.data_ptr()


def test_another_library_while_a_device_is_asked(built: Built, faked: Faked) -> None:
    """The answer is of the first one; the other one is asked by the next call."""
    _, record = faked("FAKE_CHECK_WAITS=1", "FAKE_REPLACED")
    other = built("fake_library.c", "FAKE_REPLACING")
    weight, pruned = torch.ones(9, 9, 1, 1), torch.zeros(9, 9, 1, 1)
    with (
        once_asked(record, lambda: _C.use_cuda_library(other)),
        never_called(record),
        pytest.raises(_C.Unsupported, match="moved, or the library replaced, meanwhile"),
    ):
        _C.prune([weight], [pruned], [1])
    assert _C.prune([weight], [pruned], [1]) == 0


def test_lists_that_shrink_while_a_device_is_asked(faked: Faked) -> None:
    _, record = faked("FAKE_CHECK_WAITS=1", "FAKE_SHRINKING")
    weights = [torch.ones(2, 2, 1, 1), torch.ones(3, 3, 1, 1)]
    results, counts = [torch.empty_like(weight) for weight in weights], [1, 2]
    with once_asked(record, lambda: (weights.clear(), counts.clear())):
        assert _C.prune(weights, results, counts) == 0  # all was read before the device was asked
    assert not weights
    assert record.calls == 1


@pytest.mark.parametrize("status", range(1, 6))
def test_what_a_failing_call_becomes(faked: Faked, status: int) -> None:
    faked(f"FAKE_STATUS={status}")
    kind = RuntimeError if status == FAILED else _C.Unsupported
    weight, image = torch.ones(2, 2, 1, 1), torch.ones(1, 1, 4, 4)
    for call in (
        lambda: _C.ema_update(model(), model(1), 0.5),
        lambda: _C.count_module_zeros(model()),
        lambda: _C.prune([weight], [torch.empty_like(weight)], [1]),
        lambda: _C.scale_img(image, torch.empty_like(image), (2, 2), 9),
        lambda: _C.sum_zeros(torch.ones(3, dtype=torch.int64), torch.ones(())),
        lambda: _C.fuse_on_gpu([pair_to_fuse()], torch.zeros(1, dtype=torch.int32)),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert str(caught.value) == f"the fake library says {status}"


@pytest.mark.parametrize(
    ("zeros", "total", "words"),
    [
        (torch.ones(3), torch.ones(()), "zeros: expected int64"),
        (torch.ones(6, dtype=torch.int64)[::2], torch.ones(()), "zeros: expected int64, side by"),
        (torch.ones(3, dtype=torch.int64), torch.ones(0), "sum: expected room"),
        (torch.ones(3, dtype=torch.int64), torch.ones((), dtype=torch.float16), "sum: expected"),
        (3, torch.ones(()), "zeros: expected a tensor"),
    ],
)
def test_sums_that_are_refused(
    faked: Faked, zeros: object, total: torch.Tensor, words: str
) -> None:
    _, record = faked()
    with never_called(record), pytest.raises((TypeError, ValueError), match=words):
        _C.sum_zeros(zeros, total)


def test_sums_of_the_cpu_are_refused() -> None:
    with pytest.raises(ValueError, match="not on a CUDA device"):
        _C.sum_zeros(torch.ones(3, dtype=torch.int64), torch.ones(()))


def test_memory_that_torch_does_not_have(faked: Faked) -> None:
    """An exception of torch's allocator passes through, and nothing was launched."""
    _, record = faked()

    def fail(size: int, device: int) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    _C.register_torch(Facts(fail))
    weight = torch.ones(2, 2, 1, 1)
    for call in (
        lambda: _C.count_module_zeros(model()),
        lambda: _C.prune([weight], [torch.empty_like(weight)], [1]),
    ):
        with (
            never_called(record),
            pytest.raises(torch.OutOfMemoryError, match="^CUDA out of memory$"),
        ):
            call()


def test_info_says_what_became_of_it(built: Built) -> None:
    """In a process of its own: the installed library if there is one, else that there is none."""
    command = [sys.executable, "-m", "yolov5_utils", "info"]
    facts = json.loads(subprocess.check_output([*command, "--json"], text=True))["cuda_library"]
    text = subprocess.check_output(command, text=True)
    line = next(line for line in text.splitlines() if line.startswith("CUDA library"))
    if facts["path"] is None:
        assert facts["problem"] == "the CUDA library is not installed (docs/gpu.md)"
        assert facts["problem"] in line
    else:
        assert facts["problem"] is None
        assert facts["architectures"] in line
        assert facts["toolkit"] >= 11000


def test_the_installed_library_without_a_driver(gpu: Start) -> None:
    """The real library opens anywhere; where no driver is, a tensor of a GPU gets its sentence."""
    if not _native.CUDA_LIBRARY.exists():
        pytest.skip(f"{_native.CUDA_LIBRARY.name} was not built")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    gpu(_native.CUDA_LIBRARY)
    assert _C.cuda_info()["problem"] is None
    assert "driver" in refusal()
