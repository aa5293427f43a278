"""`selftest`: every hot path as users call it against plain torch, bit for bit.

For users who want to know that their build is right on their machine. It needs no pytest, and calls
the public functions. Only what C did, at the active level, is compared: what was left to torch is
said, with the reason, and so is what the original's operations cannot do on this torch. The checks
of a hot path are in the file of its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch

from ... import _C
from ...ops import OPERATIONS
from .comparison import Comparison, one_line, usual_call
from .signals import check_signals


def _all_checks() -> Iterator[tuple[str, Callable[[], Comparison | str]]]:
    """The checks in the file of each hot path's name; where there is none, its usual call."""
    for name, operation in OPERATIONS.items():
        if find_spec(f"{__name__}.{name}") is not None:
            yield from import_module(f"{__name__}.{name}").CHECKS.items()
        else:
            yield name, partial(usual_call, operation)
    yield "signals", check_signals


_CHECKS = dict(_all_checks())


def run() -> int:
    """Print a line per check; 0 if all that C did is equal, 1 otherwise."""
    print(f"yolov5_utils selftest: torch {torch.__version__}, level {_C.info()['level']}")
    start = time.perf_counter()
    failures = left = 0
    for name, check in _CHECKS.items():
        try:
            with torch.random.fork_rng(devices=[]):
                done = check()
            compared = not isinstance(done, Comparison) or done.equal > 0
            left += not compared
            what = f"{'ok     ' if compared else 'torch  '} {name}: {done}"
        except Exception as error:  # a check that cannot run has failed, whatever the reason
            failures += 1
            what = f"FAILED  {name}: {one_line(error)}"
        print(what)
    seconds = time.perf_counter() - start
    verdict = f"{failures} of {len(_CHECKS)} checks FAILED" if failures else "all equal"
    if left:
        verdict += f", {left} of {len(_CHECKS)} checks left to torch"
    print(f"{verdict}, {seconds:.1f} s")
    return 1 if failures else 0
