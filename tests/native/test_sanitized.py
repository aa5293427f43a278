"""The whole extension under AddressSanitizer and UndefinedBehaviorSanitizer, with torch in the same
process."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .building import HERE, ROOT, clean_environment, need, need_sanitizer, run, succeed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="preloads gcc's run-time library"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and an instrumented extension, built beside the checkout."""
    need_sanitizer("libasan.so")
    need_sanitizer("libubsan.so")
    folder = tmp_path_factory.mktemp("sanitized")
    package = folder / "site" / "yolov5_utils"
    shutil.copytree(
        ROOT / "yolov5_utils", package, ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    succeed(
        *(sys.executable, "setup.py", "-q", "build_ext", "--force"),
        *("--build-temp", folder / "temp", "--build-lib", folder / "site"),
        cwd=ROOT,
        environment=clean_environment(
            CC=need("gcc"), YOLOV5_UTILS_SANITIZE="1", YOLOV5_UTILS_CUDA="0", CFLAGS="-UNDEBUG"
        ),
    )
    assert list(package.glob("_C.*so"))
    return folder / "site"


def drive(site: Path, what: str) -> subprocess.CompletedProcess[str]:
    """The driver on the instrumented build. Python's own allocator would hide small overruns, and
    what Python leaves to the system at its end is no leak of ours."""
    # No detect_stack_use_after_return: gcc 12 misaligns wide vectors then (PR 110027).
    # torch throws C++ exceptions: the sanitizer has to find them when it starts.
    preloaded = [need_sanitizer(name) for name in ("libasan.so", "libstdc++.so")]
    environment = clean_environment(
        LD_PRELOAD=" ".join(map(str, preloaded)),
        PYTHONPATH=str(site),
        PYTHONMALLOC="malloc",
        ASAN_OPTIONS="detect_leaks=0",
        UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1",
    )
    return run(sys.executable, HERE / "sanitized_driver.py", what, environment=environment)


def test_nothing_is_reported(site: Path) -> None:
    done = drive(site, "everything")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "done"
    assert "runtime error" not in done.stderr


@pytest.mark.parametrize(
    ("what", "file"), [("read_too_far", "sparsity.inc"), ("write_too_far", "ema.inc")]
)
def test_an_overrun_is_reported(site: Path, what: str, file: str) -> None:
    """An array that claims more elements than it has makes the kernels go too far."""
    done = drive(site, what)
    assert done.returncode != 0
    # In another block, where it is far enough; "unknown" where a vector lies across two.
    assert re.search("AddressSanitizer: (heap-|unknown-crash)", done.stderr)
    assert file in done.stderr


def test_undefined_behaviour_is_watched(site: Path) -> None:
    (extension,) = (site / "yolov5_utils").glob("_C.*so")
    wanted = succeed(need("nm"), "-D", "-u", extension)
    assert "__ubsan_handle_" in wanted
    assert "__asan_report_" in wanted
