"""Several threads at once, forked children, interrupts: what a training program does around us."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import nn

from yolov5_utils import _C, _native
from yolov5_utils.ops.ema import ModelEMA, update_modules
from yolov5_utils.ops.sparsity import sparsity

from ..support import Holder, meanwhile, original, takes
from .outcomes import in_child, state

SETTINGS = {
    "pool": {"parallel_bytes": 0, "gil_bytes": 0},
    "plain_loop": {"parallel_bytes": 2**62, "gil_bytes": 0},
    "gil_held": {"parallel_bytes": 2**62, "gil_bytes": 2**62},
}


@pytest.fixture(params=SETTINGS)
def settings(request: pytest.FixtureRequest) -> None:
    """How calls run: on torch's pool, on their own thread without the GIL, or with it."""
    _C.configure(**SETTINGS[request.param])
    sys.setswitchinterval(1e-5)


def model(seed: int, width: int = 48) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, width, 3), nn.Linear(9, 9)
    )


def test_threads_with_an_average_each(settings: None) -> None:
    source = model(0)

    def work(average: nn.Module) -> list[Any]:
        for i in range(12):
            update_modules(average, source, 0.5 + i / 100)
            sparsity(average)
        return state(average)

    expected = []
    for seed in range(1, 5):
        average = model(seed)
        for i in range(12):
            original(average, source, 0.5 + i / 100)
        expected.append(state(average))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, [model(seed) for seed in range(1, 5)])) == expected


def busy(change: Callable[[], None], call: Callable[[], object], seconds: float) -> None:
    """Calls `call` while another thread keeps changing things; a crash is the failure."""
    with meanwhile(change):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            call()


@pytest.mark.parametrize("function", ["update", "sparsity"])
def test_another_thread_changes_the_tree(function: str, settings: None) -> None:
    """Modules and entries come and go during the walk: any result, or a Python error."""
    average, source = model(1, 8), model(2, 8)
    count = iter(range(10**9))

    def change() -> None:
        i = next(count)
        for root in (average, source):
            root.add_module(f"x{i}", nn.Linear(2, 2))
            root.register_buffer(f"y{i % 3}", torch.ones(3))
            root._modules = dict(root._modules)
            if i > 3:
                del root._modules[f"x{i - 3}"]

    def call() -> None:
        with suppress(RuntimeError, KeyError):
            update_modules(average, source, 0.5) if function == "update" else sparsity(source)

    busy(change, call, 0.3)


@pytest.mark.parametrize("function", ["ema_update", "count_module_zeros"])
def test_another_thread_replaces_the_memory(function: str) -> None:
    """`parameter.data = ...`, as .half() and .to() do it, frees the storage a call works on. The
    original's detached tensors keep theirs."""
    elements = 300_000  # large enough that freed memory goes back to the system

    class Big(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for i in range(8):
                values = torch.ones(elements)
                self.register_parameter(f"p{i}", nn.Parameter(values, requires_grad=False))

    def replace_and_call() -> None:
        torch.set_num_threads(1)
        _C.configure(gil_bytes=0)
        sys.setswitchinterval(1e-5)
        average, source = Big(), Big()

        def change() -> None:
            for parameter in (*average.parameters(), *source.parameters()):
                parameter.data = torch.ones(elements)

        arguments = (average, source, 0.5) if function == "ema_update" else (source,)
        busy(change, lambda: getattr(_C, function)(*arguments), 2)
        assert all((p == 1).all() for p in (*average.parameters(), *source.parameters()))

    in_child(replace_and_call)


def test_configure_from_several_threads() -> None:
    """Settings stay valid; a change of one does not undo another's."""

    def keep_level() -> None:
        for _ in range(300):
            _C.configure(level="portable")

    def keep_bytes() -> None:
        for i in range(300):
            _C.configure(parallel_bytes=i)

    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(keep_level), pool.submit(keep_bytes)]:
            job.result()
    after = _C.configure()
    assert (after["level"], after["parallel_bytes"]) == ("portable", 299)


def test_forked_child_never_waits_for_the_pool(pool: None) -> None:
    """The pool's threads do not exist in a child; a task given to them would never end."""
    torch.set_num_threads(2)
    average, source = model(1, 256), model(2, 256)
    update_modules(average, source, 0.5)  # the pool has been used
    sparsity(source)
    torch.ones(1_000_000).mul_(2)

    def child() -> None:
        for _ in range(3):
            _C.ema_update(average, source, 0.5)
            _C.count_module_zeros(source)
            ModelEMA(Holder(torch.ones(3))).update(Holder(torch.zeros(3)))

        def grandchild() -> None:
            _C.ema_update(average, source, 0.5)

        in_child(grandchild, 10)

    with takes("ema"):
        in_child(child, 20)
        expected = state(average)
        in_child(lambda: _C.ema_update(average, source, 0.5), 20)
        assert state(average) == expected  # a child has its own memory
        update_modules(average, source, 0.5)  # and the parent goes on


@pytest.fixture
def facts() -> Iterator[Any]:
    """A copy of what the extension knows of torch, to be changed; put back afterwards."""
    yield _native.TorchFacts()
    _C.register_torch(_native.TorchFacts())


@pytest.mark.parametrize("where", ["versions", "first guard", "last guard"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_interrupt_inside_a_call(facts: Any, where: str, error: type[BaseException]) -> None:
    """Ctrl-C arrives wherever Python runs: it is not lost, and nothing has changed."""

    def interrupted(*args: Any) -> None:
        raise error

    if where == "versions":
        facts.increment_version = None
        facts.version_methods = (interrupted, interrupted, interrupted)
    else:
        extra = ((interrupted, "interrupted"),)
        facts.guards = extra + facts.guards if where == "first guard" else facts.guards + extra
    _C.register_torch(facts)
    ema = ModelEMA(model(1, 4))
    expected = state(ema.ema)
    with pytest.raises(error):
        ema.update(model(2, 4))
    assert ema.updates == 0
    assert state(ema.ema) == expected


def test_interrupt_of_an_entry() -> None:
    class Interrupts(torch.Tensor):
        @property
        def dtype(self) -> torch.dtype:  # type: ignore[override]
            raise KeyboardInterrupt

    source = Holder(torch.ones(3), torch.zeros(3))
    average = Holder(torch.ones(3), torch.ones(3).as_subclass(Interrupts))
    with pytest.raises(KeyboardInterrupt):
        _C.ema_update(average, source, 0.5)


def test_keyboard_interrupt_stops_a_loop_of_updates() -> None:
    """Signals are seen between calls."""
    ema, source = ModelEMA(model(1, 64)), model(2, 64)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    end = time.monotonic() + 20

    def keep_updating() -> None:
        timer.start()
        while time.monotonic() < end:
            ema.update(source)

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's jobs
    try:
        with pytest.raises(KeyboardInterrupt):
            keep_updating()
        timer.join()
    finally:
        signal.signal(signal.SIGINT, usual)


NONSENSE: list[tuple[str, Any]] = [
    ("tensor_type", 5),
    ("tensor_type", None),
    ("tensor_type", int),
    ("parameter_type", "x"),
    ("module_type", object),
    ("module_type", int),
    ("increment_version", None),
    ("increment_version", 5),
    ("increment_version", lambda tensors: 5),
    ("increments_lists", "yes"),
    ("increments_lists", False),
    ("version_methods", None),
    ("version_methods", (7, 7, 7)),
    ("byte_types", None),
    ("byte_types", ()),
    ("tensor_base", None),
    ("tensor_base", int),
    ("to_dlpack", None),
    ("to_dlpack", lambda tensor: 5),
    ("to_dlpack", lambda tensor: None),
    ("guards", None),
    ("guards", 7),
    ("guards", ()),
    ("guards", [(lambda: 0, "a list")]),
    ("guards", (7,)),
    ("guards", ((7, "seven"),)),
    ("guards", ((lambda: 0,),)),
    ("guards", ((lambda: 0, 5),)),
    ("guards", ((list, "false"),)),
    ("ordered_dict_type", None),
    ("ordered_dict_type", int),
    ("half_scalars_stay_float32", "yes"),
    ("use_exchange", None),
]


@pytest.mark.parametrize(
    ("name", "value"), NONSENSE, ids=[f"{name}-{i}" for i, (name, _) in enumerate(NONSENSE)]
)
@pytest.mark.parametrize("use_exchange", [True, False], ids=["exchange", "capsule"])
def test_nonsense_told_of_torch(facts: Any, name: str, value: Any, use_exchange: bool) -> None:
    """Refused, or at worst every call afterwards is: no crash, nothing written."""
    facts.use_exchange = use_exchange
    setattr(facts, name, value)
    with suppress(TypeError, AttributeError):
        _C.register_torch(facts)
    average, source = model(1, 4), model(2, 4)
    for call in (
        lambda: _C.ema_update(average, source, 0.5),
        lambda: _C.count_module_zeros(source),
        lambda: _C.count_zeros(source[0].weight),
    ):
        try:
            call()
        except (TypeError, AttributeError, SystemError, _native.Unsupported):
            continue


@pytest.mark.parametrize("missing", sorted(vars(_native.TorchFacts())))
def test_missing_facts(facts: Any, missing: str) -> None:
    delattr(facts, missing)
    with pytest.raises(AttributeError, match=missing):
        _C.register_torch(facts)
    _C.ema_update(model(1, 4), model(2, 4), 0.5)  # what was known before still is
