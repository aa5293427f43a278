"""Fuzzes the C code: python -m tests.fuzz [--seconds N] [--keep] [TARGET...]

Builds each target with clang's libFuzzer, runs it for N seconds on top of its corpus, and says how
many inputs it executed and how many of the program's edges they reached. What it finds goes on in
build/fuzz from one run to the next; --keep takes the smallest set of inputs that reaches as much
into tests/fuzz/corpus.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from .targets import ROOT, TARGETS, build, environment, keep_corpus, unpack_corpus

FOLDER = ROOT / "build" / "fuzz"
LONGEST_KEPT = 200  # bytes of an input in the repository
# Inputs that take longer are drawn more rarely.
HOW = ("-entropic_scale_per_exec_time=1", "-timeout=60", "-rss_limit_mb=4096")


class Result(NamedTuple):
    """What a run said."""

    executions: int
    edges: int  # reached
    of: int  # in the program
    crash: bytes | None

    @classmethod
    def of_run(cls, log: str, folder: Path, status: int) -> Result:
        crashes = sorted(folder.glob("[colt]*-*"))  # crash-, oom-, leak-, timeout-
        data = crashes[0].read_bytes() if status and crashes else None
        executions = re.findall(r"stat::number_of_executed_units: (\d+)", log)
        reached = re.findall(r"\bcov: (\d+)", log)
        edges = re.findall(r"\((\d+) inline 8-bit counters\)", log)
        numbers = [int(found[-1]) if found else 0 for found in (executions, reached, edges)]
        return cls(*numbers, data if not status else data or b"")


def fuzz(name: str, seconds: int) -> Result:
    """Runs one target; its log is on standard error where it crashes."""
    folder = FOLDER / name
    program = build(name, folder)
    corpus = unpack_corpus(name, folder / "corpus")
    for old in folder.glob("[colt]*-*"):
        old.unlink()
    until = (f"-max_total_time={seconds}", f"-max_len={TARGETS[name].longest}")
    done = subprocess.run(
        [program, *HOW, *until, "-print_final_stats=1", f"-artifact_prefix={folder}/", corpus],
        env=environment(),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        print(done.stderr[-6000:], file=sys.stderr)
    return Result.of_run(done.stderr, folder, done.returncode)


def keep(name: str) -> int:
    """Takes what is new into the repository's corpus; its size."""
    folder = FOLDER / name
    least = folder / "least"
    shutil.rmtree(least, ignore_errors=True)
    least.mkdir()
    command = [folder / f"fuzz_{name}", "-merge=1", least, folder / "corpus"]
    subprocess.run(command, env=environment(), capture_output=True, check=True)
    inputs = [file.read_bytes() for file in least.iterdir()]
    kept = [data for data in inputs if len(data) <= LONGEST_KEPT]
    keep_corpus(name, kept)
    return len(kept)


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.fuzz", description="fuzzes the C code")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=10, help="for each target (10)")
    parser.add_argument("--keep", action="store_true", help="take what is new into the repository")
    arguments = parser.parse_args()
    total, reached, edges, crashes = 0, 0, 0, 0
    for name in arguments.targets or TARGETS:
        result = fuzz(name, arguments.seconds)
        total += result.executions
        reached += result.edges
        edges += result.of
        share = f"{result.edges} of {result.of} edges"
        print(f"{name:10} {result.executions:>12,} executions, {share}", flush=True)
        if result.crash is not None:
            crashes += 1
            print(f"{name:10} CRASH, as said above, with {result.crash.hex() or 'no input'}")
        elif arguments.keep:
            print(f"{name:10} {keep(name)} inputs kept")
    share = f"{reached:,} of {edges:,} edges"
    print(f"evidence: fuzzing: {total:,} executions, {share}, {crashes} crashes")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
