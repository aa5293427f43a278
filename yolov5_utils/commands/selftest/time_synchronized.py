"""time_synchronized: the time of day, in order."""

from __future__ import annotations

import time

from ... import torch_utils


def _check_time_synchronized() -> str:
    readings = 1000
    for _ in range(readings):
        before = time.time()
        now = torch_utils.time_synchronized()
        if not before <= now <= time.time():
            raise AssertionError(f"read {now} where the clock was at {before}")
    return f"{readings} readings"


CHECKS = {"time_synchronized": _check_time_synchronized}
