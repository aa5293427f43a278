"""No function leaks a reference, whichever way it ends: counted by a Python built for debugging."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ..instrumented import debug_python, environment_of, make


@pytest.mark.slow
def test_total_references(tmp_path: Path) -> None:
    python = debug_python()
    if python is None:
        pytest.skip(f"python3.{sys.version_info.minor}-dbg is not installed")
    folder = make("references", tmp_path / "copy")
    done = subprocess.run(
        [python, "-m", "tests.robustness.total_references"],
        cwd=folder,
        env=environment_of("references", folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.endswith(" 0 leaks\n")
