"""An extension whose every call can fail, or have Python code run first: the trials of inject.py
and interleave.py, some of them for every change, more of them and under sanitizers once a week."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ... import instrumented
from ...instrumented import FAULTS, environment_of, make, wrapped_names

SECONDS = 20
LIMIT_S = 1800

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not all(map(shutil.which, ("gcc", "nm"))),
    reason="needs gcc, and the linker of Linux",
)


def run(kind: str, folder: Path, *arguments: str) -> str:
    """What a program of trials says at its end."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment_of(kind, folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout.splitlines()[-1]


def try_some(kind: str, folder: Path, *arguments: str) -> None:
    for program in ("inject", "interleave"):
        last = run(kind, folder, f"tests.robustness.faults.{program}", *arguments)
        tried = re.search(r"(\d+) of (\d+) trials.*, 0 problems", last)
        assert tried is not None, last
        assert 100 < int(tried[1]) <= int(tried[2])


@pytest.mark.slow
def test_some_trials(tmp_path: Path) -> None:
    folder = make("faults", tmp_path / "copy")
    seed = random.SystemRandom().randrange(10**6)  # --only repeats what is named in the output
    try_some("faults", folder, "--seconds", str(SECONDS), "--seed", str(seed))


@pytest.mark.long
def test_more_trials_under_sanitizers(tmp_path: Path) -> None:
    if not Path(instrumented.gcc_library("libasan.so")).is_absolute():
        pytest.skip("gcc comes without libasan.so")
    folder = make("faults-sanitize", tmp_path / "copy")
    try_some("faults-sanitize", folder, "--seconds", "600")


def test_every_function_is_known() -> None:
    """What the extension calls of Python, and of the C library's memory, is in a list. Nothing of
    the instrument is in the extension as it is built for use."""
    from yolov5_utils import _C

    plain = re.search(r"#define PLAIN((?:.*\\\n)*.*)", (FAULTS / "points.h").read_text())
    assert plain is not None
    known = {*wrapped_names(), *re.findall(r"\w+", plain[1])}
    assert "faults_" not in subprocess.check_output(["nm", "-D", _C.__file__], text=True)
    symbols = subprocess.check_output(["nm", "-D", "-u", _C.__file__], text=True)
    called = {line.split()[-1].partition("@")[0] for line in symbols.splitlines()}
    memory = {"malloc", "calloc", "realloc", "aligned_alloc", "posix_memalign", "free", "strdup"}
    wanted = {name for name in called if re.match(r"_?Py", name) or name in memory}
    data = {name for name in wanted if re.match(r"PyExc_|_Py_\w+Struct$|Py\w+_Type$", name)}
    assert wanted - data <= known
