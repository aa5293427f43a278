"""Many trials one after the other, in each way to memory: all of them, or as many as fit into a
time, drawn by a seed. Each is named on stderr before it begins, in case it ends the process."""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from . import cases


class Trial(NamedTuple):
    name: str
    run: Callable[[], str | None]  # what is wrong, or None


def main(
    title: str,
    trials_of: Callable[[str], Iterable[Trial]],
    where: Callable[[], str] = lambda: "",
) -> int:
    """The exit status of a program of trials."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, help="draw trials for so long (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="those with this in their name")
    chosen = parser.parse_args()
    done = total = 0
    problems = Counter[str]()
    for way in cases.CASES:
        with tempfile.TemporaryDirectory() as folder, cases.way(way, Path(folder)) as there:
            if not there:
                print(f"{way}: not on this machine, or not in this torch")
                continue
            todo = [trial for trial in trials_of(way) if chosen.only in f"{way}, {trial.name}"]
            total += len(todo)
            end = float("inf")
            if chosen.seconds is not None:
                random.Random(chosen.seed).shuffle(todo)
                end = time.monotonic() + chosen.seconds / len(cases.CASES)
            gc.collect()
            gc.freeze()  # collections look only at what the trials make
            for trial in todo:
                if time.monotonic() > end:
                    break
                print(f"{way}, {trial.name}", file=sys.stderr)
                wrong = trial.run()
                problems.update([f"{way}, {trial.name}: {wrong}"] if wrong else [])
                done += 1
    print(*problems, sep="\n")
    print(f"evidence: {title}: {done} of {total} trials{where()}, {len(problems)} problems")
    return 1 if problems or not done else 0
