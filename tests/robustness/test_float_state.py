"""torch's pool keeps the floating-point state of the moment in which it was started: no result
depends on who takes a task, and each has the bits of torch's own operations in that process."""

from __future__ import annotations

import re

import pytest

from yolov5_utils import _C

from ..support import python

ALL = {"ema", "sparsity", "prune", "fuse", "scale_img"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("who", "threads", "state"),
    [
        *(("none", 2, "flush"), ("pool", 2, "flush"), ("pool", 3, "flush"), ("caller", 2, "flush")),
        *(("caller", 1, state) for state in ("up", "down", "zero")),
        ("joiner", 2, "flush"),
        *(("pool", 2, "up"), ("caller", 2, "down"), ("both", 2, "down"), ("both", 2, "flush")),
    ],
)
def test_same_bits_in_any_floating_point_state(who: str, threads: int, state: str) -> None:
    if who in ("pool", "joiner") and not _C.info()["thread_pool"]:
        pytest.skip("this torch lends no pool, which could be asked")
    command = ("-m", "tests.robustness.float_state", who, str(threads), state)
    done = python(*command, OMP_WAIT_POLICY="passive")
    if done.stdout.startswith("SKIP "):
        pytest.skip(done.stdout[5:])
    assert done.returncode == 0, done.stdout + done.stderr
    in_c = {name for name, count in re.findall(r"(\w+)=(\d+)", done.stdout) if int(count) > 2}
    assert in_c >= {"none": ALL, "pool": {"ema"}, "joiner": {"ema"}}.get(who, set())
    assert who in ("none", "pool", "joiner") or not in_c
