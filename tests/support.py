"""What tests of several hot paths share: numbers of all kinds, modules that hold tensors, the loop
of the original EMA, a comparison of bits that is not the package's own; which way calls take, how
they end, and what another process makes of some code."""

from __future__ import annotations

import contextlib
import itertools
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from yolov5_utils.ops import OPERATIONS

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 600  # a process that hangs is a failure, not a wait
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DECAY = 0.9987
SPECIAL = (0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 1e-45, 3e38, -3e38, float("inf"), float("-inf"))
every_pair_of_types = pytest.mark.parametrize(
    ("average_dtype", "source_dtype"), list(itertools.product(FLOATING, FLOATING)), ids=str
)
INTEGER_VIEW = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Holder(nn.Module):
    """A module whose state is the given buffers, in order."""

    def __init__(self, *buffers: Tensor) -> None:
        super().__init__()
        for i, buffer in enumerate(buffers):
            self._buffers[f"b{i}"] = buffer  # whatever it is


class Watch(TorchFunctionMode):
    """Notes the operations' names, and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


def original(average: nn.Module, source: nn.Module, decay: Any) -> None:
    """The loop the package replaces."""
    with torch.no_grad():
        state = source.state_dict()
        for key, value in average.state_dict().items():
            if value.dtype.is_floating_point:
                value *= decay
                value += (1 - decay) * state[key].detach()


def values(count: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Random values over many binades, with the special ones strewn in."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(count, generator=generator, dtype=torch.float64)
    base *= torch.exp2(torch.randint(-20, 8, (count,), generator=generator).double())
    if count:
        where = torch.randint(0, count, (max(1, count // 7),), generator=generator)
        pick = torch.randint(0, len(SPECIAL), (len(where),), generator=generator)
        base[where] = torch.tensor(SPECIAL, dtype=torch.float64)[pick]
    return base.to(dtype)


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    """Equal bits; a NaN equals every NaN, since its payload is nobody's promise."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    integer = INTEGER_VIEW[actual.element_size()]
    same = actual.contiguous().view(integer) == expected.contiguous().view(integer)
    same |= actual.isnan() & expected.isnan()
    if not same.all():
        first = int((~same).flatten().nonzero()[0])
        got, want = actual.flatten()[first], expected.flatten()[first]
        raise AssertionError(f"element {first}: got {got!r}, expected {want!r}")


def assert_same_state(found: nn.Module, expected: nn.Module) -> None:
    """Equal bits of all entries, wherever they are."""
    state = found.state_dict()
    for key, value in expected.state_dict().items():
        assert_same_bits(state[key].cpu(), value.cpu())


@contextlib.contextmanager
def takes(operation: str, way: str = "C", calls: int = 1) -> Iterator[None]:
    """There are so many calls of the operation meanwhile, and all go this way."""
    path = OPERATIONS[operation]
    before = path.counted()
    yield
    assert path.counted() == {**before, way: before[way] + calls}, path.reasons


def in_threads(*functions: Callable[[], object]) -> None:
    """Each in a thread of its own, all to their end."""
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def meanwhile(change: Callable[[], object]) -> Iterator[None]:
    """Another thread does something again and again, and raises nothing."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def keep_changing() -> None:
        try:
            while not stop.is_set():
                change()
        except BaseException as error:
            errors.append(error)

    other = threading.Thread(target=keep_changing)
    other.start()
    try:
        yield
    finally:
        stop.set()
        other.join()
    assert not errors


def assert_raise_alike(
    *calls: Callable[[], object], kind: type[Exception] | tuple[type[Exception], ...] = Exception
) -> None:
    """Each call raises, and the same: an exception of one type and text."""
    errors = []
    for call in calls:
        with pytest.raises(kind) as raised:
            call()
        errors.append((raised.type, str(raised.value)))
    assert errors == errors[:1] * len(calls)


def python(
    *arguments: str | Path, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What an interpreter of its own does, in this environment and with the checkout in reach."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )


def client_text() -> str:
    """The text of a small client that the overlay knows."""
    synthetic = runpy.run_path(str(ROOT / "tests" / "overlay" / "synthetic.py"))
    text: str = synthetic["text_of"]("7.0")
    return text
