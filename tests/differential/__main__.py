"""Compares every hot path with the reference, bit for bit, on calls drawn at random:

    python -m tests.differential [--seconds N] [--calls N] [--seed S] [--memory BYTES] [--path NAME]

Goes on until it is told to stop. Each call is drawn from a number of its own, the seed of the first
one counted up. A failing call is had again by the command that is printed with it.
"""

from __future__ import annotations

import argparse
import os
import resource
import secrets
import sys
import time
from collections import Counter

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: its threads are not to spin

from yolov5_utils.ops import OPERATIONS

from .cases import CASES
from .comparison import Different, check
from .surroundings import Settings

MOST_SHOWN = 20  # differences


def free_memory() -> int:
    """An eighth of what this machine can spare: a call may have four times as much."""
    with open("/proc/meminfo") as lines:
        found = dict(line.split(":") for line in lines)
    return int(found["MemAvailable"].split()[0]) * 1024 // 8


def data_bytes() -> int:
    """What this process has now."""
    with open("/proc/self/status") as lines:
        return int(dict(line.split(":") for line in lines)["VmData"].split()[0]) * 1024


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.differential", description=__doc__)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--calls", type=int, default=1 << 62)
    parser.add_argument("--seed", type=int, default=secrets.randbits(40))
    parser.add_argument("--memory", type=int, default=free_memory(), help="the bound of sizes")
    parser.add_argument("--path", choices=CASES, help="this hot path only")
    return parser.parse_args()


def main() -> int:
    asked = parse()
    print(f"seed {asked.seed}, memory {asked.memory}", flush=True)
    # A ratio of "2" makes a side of 5 one of 55,555: torch is to refuse it, not the kernel to kill.
    resource.setrlimit(resource.RLIMIT_DATA, (4 * asked.memory + data_bytes(),) * 2)
    settings, calls, different = Settings(), Counter[str](), 0
    end = time.monotonic() + asked.seconds
    numbers = iter(range(asked.seed, asked.seed + asked.calls))
    try:
        while time.monotonic() < end and (number := next(numbers, None)) is not None:
            try:
                calls[check(number, asked.memory, settings, asked.path)] += 1
            except Different as what:
                different += 1
                print(f"DIFFERENT: {what}")
                path = f" --path {asked.path}" if asked.path else ""
                again = f"--calls 1 --seed {number} --memory {asked.memory}{path}"
                print(f"  again: python -m tests.differential {again}", flush=True)
                if different == MOST_SHOWN:
                    break
    except KeyboardInterrupt:
        print("stopped")
    settings.leave()
    in_c = sum(path.counted()["C"] for path in OPERATIONS.values())
    for name, count in calls.items():
        ways = ", ".join(f"{way} {n:,}" for way, n in OPERATIONS[name].counted().items() if n)
        print(f"{name:18} {count:>10,} calls ({ways})")
    total = sum(calls.values())
    print(f"evidence: differential: {total:,} calls, {in_c:,} in C, {different} different")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
