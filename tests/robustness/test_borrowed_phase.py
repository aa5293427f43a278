"""Nothing that Python code does in the middle of a call makes C use memory that is not its own:
attack.py at random, with Python's own allocator watching for what is used after it was freed."""

from __future__ import annotations

from collections.abc import Callable

from ..support import python


def test_attacks(rounds: Callable[[int], range]) -> None:
    numbers = rounds(600)
    command = ("-m", "tests.robustness.attack", str(numbers.start), str(len(numbers)))
    done = python(*command, PYTHONMALLOC="debug", PYTHONFAULTHANDLER="1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "done\n"
