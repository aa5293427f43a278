"""Nothing that Python code does in the middle of a call makes C read or write what is not its own:
attack.py at random, with Python's own allocator watching for memory that is used after it was freed.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("YOLOV5_UTILS_TEST_ROUNDS", "600"))


def test_attacks() -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness.attack", str(seed), str(ROUNDS)],
        cwd=ROOT,
        env={**os.environ, "PYTHONMALLOC": "debug", "PYTHONFAULTHANDLER": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0 and done.stdout == "done\n", (
        f"seed {seed}, {ROUNDS} rounds: exit code {done.returncode}\n{done.stderr[-3000:]}"
    )
