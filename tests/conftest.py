"""What every test may ask for: an instruction level, a number of threads; and the header that says
which torch and which levels this run is about."""

from __future__ import annotations

import gc
import os
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# Of this architecture: what is not compiled here cannot be run here either.
ON_ARM = platform.machine() in ("aarch64", "arm64")
LEVELS = ("portable", "neon") if ON_ARM else ("portable", "avx2", "avx512")

# Several workers share the cores: torch's threads are not to wait for their next part by spinning,
# which half of the time would go to. Before torch is loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


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
def level(request: pytest.FixtureRequest) -> str:
    """Each instruction level in turn, active during the test; skipped where the CPU lacks it."""
    from yolov5_utils import _C

    info: dict[str, Any] = _C.info()
    if request.param not in info["levels_compiled"]:
        pytest.skip(f"level {request.param} is not compiled in on this architecture")
    if request.param not in info["levels_found"]:
        pytest.skip(f"this CPU lacks level {request.param}")
    _C.configure(level=request.param)
    return request.param


@pytest.fixture(params=(1, 2), ids=("1thread", "2threads"))
def threads(request: pytest.FixtureRequest) -> int:
    """One and two torch threads in turn."""
    import torch

    torch.set_num_threads(request.param)
    return request.param


@pytest.fixture
def pool() -> None:
    """torch's thread pool and a released GIL for every call, however small."""
    from yolov5_utils import _C

    _C.configure(parallel_bytes=0, gil_bytes=0)


@pytest.fixture(params=("exchange", "capsule"))
def way_to_memory(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways to a tensor's memory: the exchange table, and capsules as in older torch."""
    from yolov5_utils import _C, _native

    found = _C.register_torch(_native.TorchFacts(use_exchange=request.param == "exchange"))
    if request.param == "exchange" and not found:
        _C.register_torch(_native.TorchFacts())
        pytest.skip("this torch has no exchange table")
    yield request.param
    _C.register_torch(_native.TorchFacts())


@pytest.fixture(scope="session")
def rounds() -> Callable[[int], range]:
    """Numbers to seed random cases with: rounds(50) gives 50, or YOLOV5_UTILS_TEST_ROUNDS times as
    many. A case is drawn from its number alone, so that a failure says how to have it again."""
    times = int(os.environ.get("YOLOV5_UTILS_TEST_ROUNDS", "1"))
    return lambda usual: range(usual * times)


@pytest.fixture(autouse=True)
def settings_end_with_the_test() -> Iterator[None]:
    """Whatever a test sets of torch, the package or Python's threads is put back behind it.

    Gradients as well: an exception inside torch.no_grad().__exit__(), which tests of interrupts
    raise, may leave them off.
    """
    interval = sys.getswitchinterval()
    torch, native = (sys.modules.get(name) for name in ("torch", "yolov5_utils._C"))
    if torch is None:  # the client tests need none here
        yield
        return
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    settings = native.configure() if native else {}
    yield
    sys.setswitchinterval(interval)
    assert gc.isenabled(), "the garbage collector was left off"
    torch.set_grad_enabled(True)
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if native and native.configure() != settings:
        native.configure(**settings)
