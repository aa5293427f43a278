"""torch's pool keeps the floating-point state of the moment in which it was started: no result
depends on who takes a task, and each has the bits of torch's own operations in that process."""

from __future__ import annotations

import re

import pytest

from yolov5_utils import _C

from ..support import python


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flushing", "threads"), [("none", 2), ("pool", 2), ("pool", 3), ("caller", 2)]
)
def test_same_bits_where_threads_flush(flushing: str, threads: int) -> None:
    if flushing == "pool" and not _C.info()["thread_pool"]:
        pytest.skip("this torch lends no pool, which could be asked")
    command = ("-m", "tests.robustness.float_state", flushing, str(threads))
    done = python(*command, OMP_WAIT_POLICY="passive")
    if done.stdout.startswith("SKIP "):
        pytest.skip(done.stdout[5:])
    assert done.returncode == 0, done.stdout + done.stderr
    in_c = {name for name, count in re.findall(r"(\w+)=(\d+)", done.stdout) if int(count) > 2}
    expected = {"none": {"ema", "sparsity", "prune", "fuse", "scale_img"}, "pool": {"ema"}}
    assert in_c >= expected.get(flushing, set())
    assert flushing != "caller" or not in_c
