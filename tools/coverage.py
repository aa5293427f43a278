"""How much of csrc the tests run, by gcov: tools/coverage.py [--again] [ARGUMENTS FOR PYTEST]

Builds in build/coverage, runs there the core's own test program, the trials of
tests/robustness/faults and those tests that reach what these do not, and prints lines and branches
of each file. Fails where a line was not run that tools/not_covered.txt does not name with a reason,
where one that it names was run, and under 95 % of branches in all. With --again it adds to what was
counted before; with that alone it only prints.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests import instrumented  # noqa: E402

COPY = ROOT / "build" / "coverage"
EXCEPTIONS = ROOT / "tools" / "not_covered.txt"
NATIVE = COPY / "native"
NATIVE_FLAGS = ("--coverage", "-O1", "-UNDEBUG", "-fprofile-update=atomic")  # as the extension
# Those that reach what the others do not: all of them would take hours.
TESTS = {
    "robustness": "borrowed_phase float_state interrupts kept_gil modules_odd odd_exchange "
    "odd_facts odd_keys producers tensors_odd written_meanwhile",
    "cuda": "loader refusals",
    "unit": "configure ema* fuse_refusals private_functions scale_img_classes skip_random "
    "time_synchronized",
}
LEAST_BRANCHES = 0.95

Counts = dict[tuple[str, int], list[int]]  # file and line: how often, then each of its branches


def run_tests(arguments: list[str]) -> None:
    """In the copy; what fails there is said, and does not count as run."""
    programs = [["pytest", *arguments]]
    if not arguments:
        NATIVE.mkdir()
        folders = [(COPY / "tests" / folder, names.split()) for folder, names in TESTS.items()]
        tests = [str(p) for f, names in folders for n in names for p in f.glob(f"test_{n}.py")]
        programs = [
            ["tests.native.building", str(NATIVE), *NATIVE_FLAGS],
            ["tests.robustness.faults.inject"],
            ["pytest", "-q", "-m", "not long", *tests],
        ]
    for program in programs:
        command = [sys.executable, "-m", *program]
        environment = instrumented.environment_of("coverage", COPY)
        if subprocess.run(command, cwd=COPY, env=environment, check=False).returncode != 0:
            print(f"coverage: {program[0]} failed, as said above", file=sys.stderr)


def add(counts: Counts, line: dict[str, Any], file: str) -> None:
    """Code that is compiled several times, such as once for each instruction level, counts as run
    where one of these was; its branches by their place."""
    found = [line["count"], *(branch["count"] for branch in line["branches"])]
    kept = counts[file, line["line_number"]]
    kept += [0] * (len(found) - len(kept))
    for i, count in enumerate(found):
        kept[i] += count


def read_counts() -> Counts:
    """What gcov says of all objects in the copy."""
    counts: Counts = defaultdict(list)
    for data in sorted(COPY.rglob("*.gcda")):
        command = ["gcov", "--json-format", "--stdout", "--branch-probabilities", str(data)]
        printed = subprocess.check_output(command, cwd=COPY, text=True)
        for text in printed.splitlines():
            for file in json.loads(text)["files"]:
                path = COPY / file["file"]
                if path.is_relative_to(COPY / "csrc"):
                    for line in file["lines"]:
                        add(counts, line, str(path.relative_to(COPY)))
    return counts


def read_exceptions() -> dict[tuple[str, str], str]:
    """Of file and text of a line the reason."""
    lines = EXCEPTIONS.read_text().splitlines()
    parts = [line.split(" | ") for line in lines if line and not line.startswith("#")]
    return {(file, text): reason for file, text, reason in parts}


def main(arguments: list[str]) -> int:
    again, arguments = arguments[:1] == ["--again"], [a for a in arguments if a != "--again"]
    if not again:
        shutil.rmtree(COPY, ignore_errors=True)
        instrumented.make("coverage", COPY)
    if arguments or not again:
        run_tests(arguments)
    counts, exceptions = read_counts(), read_exceptions()
    unknown, needless = [], dict(exceptions)
    lines: dict[str, list[bool]] = defaultdict(list)
    branches: dict[str, list[bool]] = defaultdict(list)
    for (file, number), (count, *taken) in sorted(counts.items()):
        text = (COPY / file).read_text().splitlines()[number - 1].strip()
        if (count == 0 and needless.pop((file, text), "")) or (file, text) in exceptions:
            continue
        lines[file].append(count > 0)
        branches[file] += [times > 0 for times in taken]
        if count == 0:
            unknown.append(f"{file}:{number}: not run: {text}")
    for file, run in lines.items():
        part = branches[file]
        print(f"{file:40} {sum(run):5}/{len(run):5} lines {sum(part):5}/{len(part):5} branches")
    every = [taken for part in branches.values() for taken in part]
    of_lines = [run for part in lines.values() for run in part]
    print(*unknown, sep="\n")
    print(*(f"{file}: was run after all: {text}" for file, text in needless), sep="\n")
    share = sum(every) / len(every)
    print(
        f"evidence: coverage: {sum(of_lines)} of {len(of_lines)} lines, {100 * share:.1f} % of "
        f"{len(every)} branches, {len(exceptions)} lines excepted"
    )
    return 1 if unknown or needless or share < LEAST_BRANCHES else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
