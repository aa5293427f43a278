"""What every test may ask for: an instruction level, a number of threads; and the header that says
which torch and which levels this run is about."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

LEVELS = ("portable", "avx2", "avx512")


def pytest_report_header() -> list[str]:
    import torch

    lines = [f"torch {torch.__version__}, {torch.get_num_threads()} threads"]
    try:
        from yolov5_utils import _native  # sets the level that the environment asks for
    except ImportError as error:
        return [*lines, str(error)]
    info = _native._C.info()
    return [*lines, f"levels found: {', '.join(info['levels_found'])}; active: {info['level']}"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what draws rounds; skip, with its reason, what an older torch cannot be asked."""
    for item in items:
        if "rounds" in getattr(item, "fixturenames", ()):
            item.add_marker("rounds")
    try:
        from tests.older_torch import reason
    except ImportError:  # no torch: the client tests need none here
        return
    for item in items:
        why = reason(item.nodeid)
        if why is not None:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction level in turn, active during the test; skipped where the CPU lacks it."""
    from yolov5_utils import _C

    info: dict[str, Any] = _C.info()
    if request.param not in info["levels_compiled"]:
        pytest.skip(f"level {request.param} is not compiled in on this architecture")
    if request.param not in info["levels_found"]:
        pytest.skip(f"this CPU lacks level {request.param}")
    before = _C.configure(level=request.param)
    yield request.param
    _C.configure(**before)


@pytest.fixture(params=(1, 2), ids=("1thread", "2threads"))
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """One and two torch threads in turn."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def rounds() -> Callable[[int], range]:
    """Numbers to seed random cases with: rounds(50) gives 50, or YOLOV5_UTILS_TEST_ROUNDS times as
    many. A case is drawn from its number alone, so that a failure says how to have it again."""
    times = int(os.environ.get("YOLOV5_UTILS_TEST_ROUNDS", "1"))
    return lambda usual: range(usual * times)


@pytest.fixture(autouse=True)
def gradients_stay_on() -> Iterator[None]:
    """An exception inside torch.no_grad().__exit__(), which tests of interrupts raise, may leave
    gradients off for all tests that follow."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_grad_enabled(True)
