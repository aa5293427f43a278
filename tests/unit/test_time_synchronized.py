"""time_synchronized: the clock's value, and the same questions to torch as the original asks.

There need be no GPU: what torch would answer is put into its place, and the original's two lines
run beside the C function on the same answers.
"""

from __future__ import annotations

import inspect
import pickle
import sys
import threading
import time
import types

import pytest
import torch

from yolov5_utils import _C, _native, reference
from yolov5_utils.commands import info
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.ops import time_synchronized as operation

from ..support import takes
from .command_line import STOCK, run

FUNCTIONS = {"C": _C.time_synchronized, "original": reference.time_synchronized}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def test_it_reads_the_clock():
    for _ in range(1000):
        before = time.time()
        now = _C.time_synchronized()
        assert type(now) is float
        assert before <= now <= time.time()


def test_nothing_is_allocated_but_the_float():
    clock, kept = _C.time_synchronized, [0.0] * 1000
    held = (torch, torch.cuda, torch._C, time, torch.cuda.is_available, time.time)
    counts = [sys.getrefcount(thing) for thing in held]
    before = sys.getallocatedblocks()
    for i in range(1000):
        kept[i] = clock()
    assert sys.getallocatedblocks() - before <= 1000 + 20
    assert [sys.getrefcount(thing) for thing in held] == counts


def test_names_signature_pickle():
    assert operation.time_sync is operation.time_synchronized
    assert str(inspect.signature(_C.time_synchronized)) == "()"
    assert pickle.loads(pickle.dumps(_C.time_synchronized)) is _C.time_synchronized
    with pytest.raises(TypeError, match="takes no arguments"):
        _C.time_synchronized(1)


def answers(log, name, answer):
    """A function that notes its call and gives, or raises, the answer."""

    def function(*arguments):
        log.append(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return function


def outcome(call):
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


def both_on_the_same(monkeypatch, replaced):
    """What either function gives on these answers of torch and the clock, asked for alike."""
    logs, outcomes = [], []
    for function in FUNCTIONS.values():
        log: list[str] = []
        with monkeypatch.context() as patch:
            for name, answer in replaced.items():
                owner = time if name == "time" else torch.cuda
                patch.setattr(owner, name, answers(log, name, answer))
            outcomes.append(outcome(function))
        logs.append(log)
    assert logs[0] == logs[1]
    return outcomes


SICK = RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("clock", (None, 12.5, "noon", OSError("no clock")))
@pytest.mark.parametrize("synchronize", (None, SICK))
@pytest.mark.parametrize("available", (False, True, 0, 2, [], ValueError("who knows")))
def test_replaced_functions_are_called_as_they_are(monkeypatch, available, synchronize, clock):
    replaced = {"is_available": available, "synchronize": synchronize}
    outcomes = both_on_the_same(monkeypatch, replaced | ({"time": clock} if clock else {}))
    assert outcomes[0] == outcomes[1] or (clock is None and 0 <= outcomes[1] - outcomes[0] < 5)


@pytest.mark.parametrize("name", ("is_available", "synchronize", "time"))
def test_one_replaced_function_is_enough(monkeypatch, name):
    assert not any(isinstance(x, tuple) for x in both_on_the_same(monkeypatch, {name: 0.0}))


def test_another_torch_cuda_is_seen(monkeypatch):
    log: list[str] = []
    fake = types.SimpleNamespace(
        is_available=answers(log, "is_available", True), synchronize=answers(log, "wait", None)
    )
    monkeypatch.setattr(torch, "cuda", fake)
    _C.time_synchronized()
    assert log == ["is_available", "wait"]


@pytest.fixture
def cuda_build(monkeypatch):
    """A torch that was built for CUDA, with a device; its C functions note their calls."""
    log: list[str] = []

    def device_count():
        log.append("count")
        return cuda_build.devices

    cuda_build = types.SimpleNamespace(log=log, devices=1)
    wait = answers(log, "wait", None)
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", device_count, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_synchronize", wait, raising=False)
    monkeypatch.setattr(torch.cuda, "_initialized", True)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)
    monkeypatch.delenv("PYTORCH_NVML_BASED_CUDA_CHECK", raising=False)
    return cuda_build


def test_with_cuda_in_use_it_waits_once(cuda_build):
    _C.time_synchronized()
    assert cuda_build.log == ["wait"]


def test_the_devices_error_is_torchs_own(cuda_build, monkeypatch):
    monkeypatch.setattr(torch._C, "_cuda_synchronize", answers([], "wait", SICK))
    with pytest.raises(RuntimeError) as raised:
        _C.time_synchronized()
    assert raised.value is SICK


def test_a_replaced_synchronize_is_called_with_cuda_in_use(cuda_build, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", answers(cuda_build.log, "replaced", None))
    _C.time_synchronized()
    assert cuda_build.log == ["count", "replaced"]


def test_no_negative_answer_is_kept(cuda_build, monkeypatch):
    """With devices CUDA is begun with, and no further: what follows differs by build of torch."""
    begin = answers(cuda_build.log, "initialised", SICK)
    monkeypatch.setattr(torch.cuda, "_initialized", False)
    monkeypatch.setattr(torch.cuda, "_lazy_init", begin)
    for devices in (0, 0, 1, 0):
        cuda_build.devices = devices
        for name, function in FUNCTIONS.items():
            cuda_build.log.clear()
            result = outcome(function)
            assert cuda_build.log == (["count", "initialised"] if devices else ["count"]), name
            assert result == (RuntimeError, str(SICK)) if devices else result > 0, name


def test_a_build_without_cuda_that_gets_it_is_noticed(monkeypatch):
    log: list[str] = []
    _C.time_synchronized()
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", lambda: 1, raising=False)
    monkeypatch.setattr(torch.cuda, "synchronize", answers(log, "wait", None))
    monkeypatch.delenv("PYTORCH_NVML_BASED_CUDA_CHECK", raising=False)
    _C.time_synchronized()
    assert log == ["wait"]


def test_in_a_child_torch_itself_refuses(cuda_build, monkeypatch):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    for function in FUNCTIONS.values():
        with pytest.raises(RuntimeError, match="Cannot re-initialize CUDA in forked subprocess"):
            function()
    assert "wait" not in cuda_build.log


def test_with_nvml_torch_is_asked_every_time(cuda_build, monkeypatch):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    _C.time_synchronized()
    assert cuda_build.log == []


@needs_gpu
def test_it_waits_for_the_gpu_and_lets_other_threads_run():
    a = torch.rand(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    ticks, stop = [0], threading.Event()

    def count():
        while not stop.is_set():
            ticks[0] += 1

    for _ in range(200):
        a = (a @ a).sin_()
    done = torch.cuda.Event()
    done.record()
    thread = threading.Thread(target=count)
    thread.start()
    before = ticks[0]
    _C.time_synchronized()
    meanwhile = ticks[0] - before
    stop.set()
    thread.join()
    assert done.query()
    assert meanwhile > 1000


def test_calls_are_counted():
    with takes("time_synchronized", calls=3):
        for _ in range(3):
            _C.time_synchronized()
    counted = OPERATIONS["time_synchronized"].counted()
    assert info.hot_paths()["time_synchronized"].calls == counted


SCRIPT = """
import time
from yolov5_utils.commands import info
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.torch_utils import time_synchronized
before = time.time()
assert before <= time_synchronized() <= time.time()
print(type(time_synchronized).__name__, OPERATIONS["time_synchronized"].counted())
"""


@pytest.mark.parametrize(
    ("variable", "printed"),
    [
        ("", "builtin_function_or_method {'C': 1, 'CUDA': 0, 'torch': 0}"),
        ("YOLOV5_UTILS_BACKEND=torch", "function {'C': 0, 'CUDA': 0, 'torch': 1}"),
        ("YOLOV5_UTILS_VERIFY=1", "function {'C': 1, 'CUDA': 0, 'torch': 0}"),
    ],
)
def test_the_switches_choose_the_way(variable, printed):
    done = run(STOCK, "-c", SCRIPT, **dict([variable.split("=")] if variable else []))
    assert done.stdout.strip() == printed, done.stderr


@pytest.mark.parametrize("clock", (None, (), (torch,) * 7, (torch, torch, torch, time, 1, 2, 3)))
def test_what_it_is_told_is_checked(clock):
    facts = _native.TorchFacts()
    facts.clock = clock
    with pytest.raises(TypeError, match="clock: expected a tuple of 4 modules and 3 functions"):
        _C.register_torch(facts)
    assert _C.time_synchronized() > 0
