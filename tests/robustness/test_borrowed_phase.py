"""Nothing that Python code does in the middle of a call makes C use memory that is not its own:
attack.py at random, with Python's own allocator watching for what is used after it was freed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_attacks(rounds: Callable[[int], range]) -> None:
    numbers = rounds(600)
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness.attack", str(numbers.start), str(len(numbers))],
        cwd=ROOT,
        env={**os.environ, "PYTHONMALLOC": "debug", "PYTHONFAULTHANDLER": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "done\n"
