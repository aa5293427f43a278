"""Steps that no signal parts: all are taken, or none.

What a signal handler raises, such as KeyboardInterrupt, is raised between two instructions of
Python and never inside a call of C. So what has to be done as a whole is one call of C.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain


def run(*steps: Iterable[object]) -> None:
    """Exhaust iterators, one after another: such as map, of functions written in C."""
    deque(chain(*steps), maxlen=0)
