"""With tests/one_process.py, tests that start programs are skipped, and only these."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import os, subprocess, pytest

@pytest.fixture
def started():
    subprocess.check_call(["true"])

def test_in_a_fixture(started): pass
def test_in_a_test():
    try:
        os.system("true")
    except BaseException:
        raise ValueError("as doctest does")
def test_that_passes_in_spite_of_it():
    with pytest.raises(pytest.skip.Exception):
        os.system("true")
def test_plain(): pass
"""


@pytest.mark.skipif(
    pytest.version_tuple < (8,), reason="wrappers of pytest's hooks are of another form before 8"
)
def test_what_starts_a_program_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "test_programs.py"
    file.write_text(TESTS)
    command = (sys.executable, "-m", "pytest", "-p", "tests.one_process", "-c", "/dev/null", file)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 3 skipped" in done.stdout
