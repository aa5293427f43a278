"""What tests/instrumented.py says of a command that it runs on a copy."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests import instrumented

FREE_TWICE = """
import ctypes, os
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # as pytest does
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
block = ctypes.c_void_p(library.malloc(8))
library.free(block)
library.free(block)
"""


@pytest.fixture(autouse=True)
def no_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(instrumented, "ROOT", tmp_path)
    monkeypatch.setattr(instrumented, "make", lambda _, into: into.mkdir(parents=True))


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("gcc") is None, reason="preloads gcc's library"
)
def test_a_report_is_shown_wherever_standard_error_went(capfd: pytest.CaptureFixture[str]) -> None:
    if not Path(instrumented.gcc_library("libasan.so")).is_absolute():
        pytest.skip("gcc comes without libasan.so")
    assert instrumented.main("sanitize", "python", "-c", FREE_TWICE) != 0
    said = capfd.readouterr().out
    assert "attempting double-free" in said
    assert "evidence" not in said


def test_the_last_line_is_the_evidence(capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        instrumented.main("coverage", "python", "-c", "print('1 thing', '2 things', sep='\\n')")
        == 0
    )
    assert capfd.readouterr().out.splitlines()[-1] == "evidence: coverage: 2 things"
