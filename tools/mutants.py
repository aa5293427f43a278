"""Which slips the tests let pass: python tools/mutants.py [--count N] [--seed S] [PATTERN...]

Changes one operator or constant of csrc at a time, in a copy of the tree, builds what depends on
it, runs the core's test program and the quick tests of that file, and lists the mutants that
survive all of them: each is to be killed by a new test or explained in tools/mutants.txt. PATTERN
chooses files ("csrc/core/*"). A mutant with the same machine code as the original is not
counted."""

from __future__ import annotations

import argparse
import fnmatch
import os
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
EXPLAINED = ROOT / "tools" / "mutants.txt"
FOLDERS = ("core", "plan", "python")
LIMIT_SECONDS = 900  # of one test file: a mutant that hangs is noticed, too
FLAGS = (
    "-std=c11",
    "-O1",
    "-w",
    "-fPIC",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-Icsrc",
    "-Icuda",
)

# What becomes of what. A binary operator stands between spaces, as clang-format has it.
SWAPS = (
    *((" == ", " != "), (" != ", " == "), (" < ", " <= "), (" <= ", " < "), (" > ", " >= ")),
    *((" >= ", " > "), (" && ", " || "), (" || ", " && "), (" + ", " - "), (" - ", " + ")),
    *((" / ", " * "), (" % ", " / "), (" << ", " >> "), (" >> ", " << "), (" & ", " | ")),
    *((" | ", " & "), (" += ", " -= "), (" -= ", " += "), ("++", "--"), ("--", "++")),
    *(("true", "false"), ("false", "true"), ("(!", "("), (" !", " ")),
)
WORD = {"true", "false"}
NUMBER = re.compile(r"(?<![\w.\"])(\d+)(?![\w.\"])")
# A call whose result nobody takes, alone on its line.
STATEMENT = re.compile(r"^( +)((?:\(void\))?[A-Za-z_]\w*(?:->\w+|\.\w+)*\(.*\));$")

# Tests by the beginning of a file's name; the first that fits, and by default those of its name.
EMA = ("unit/test_ema*.py", "robustness/test_modules_odd.py")
GPU = ("unit/test_fuse_gpu.py", "unit/test_devices.py")
TESTS = {
    "csrc/core/mt19937": ("unit/test_skip_random.py",),
    "csrc/core/levels": ("unit/test_configure.py", "unit/test_ema.py"),
    "csrc/core/overlap": ("unit/test_ema_refusals.py", "unit/test_ema.py"),
    "csrc/plan/fuse_gpu": GPU,
    "csrc/python/ops/fuse_gpu": GPU,
    "csrc/python/ops/cuda_library": ("cuda/test_loader.py",),
    "csrc/python/ops/ema": EMA,
    "csrc/python/cuda_loader": ("cuda/test_loader.py", "unit/test_devices.py"),
    "csrc/python/module_walk": (*EMA, "unit/test_sparsity.py"),
    "csrc/python/plain_module": (*EMA, "unit/test_fuse*.py"),
    "csrc/python/trail": EMA,
    "csrc/python/tensor": ("robustness/test_producers.py", "unit/test_ema.py"),
    "csrc/python/torch_": (
        *("unit/test_configure.py", "robustness/test_environment.py"),
        *("unit/test_ema.py", "robustness/test_threads_fork.py"),
    ),
    "csrc/python/call": (*EMA, *GPU, "unit/test_prune.py", "robustness/test_kept_gil.py"),
    "csrc/python/questions": (*EMA, "robustness/test_leaks.py"),
    "csrc/python/module": (
        "unit/test_configure.py",
        "unit/test_cli.py",
        "robustness/test_leaks.py",
    ),
    "csrc/python/bindings": ("robustness/test_environment.py", "unit/test_ema_refusals.py"),
    "csrc/python/errors": ("robustness/test_producers.py", "unit/test_ema_refusals.py"),
}
EVERY_FILE = ("robustness/test_tensors_odd.py", "unit/test_scalars.py")


class Mutant(NamedTuple):
    file: str
    line: int
    before: str  # of the line
    after: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before.strip()}  =>  {self.after.strip()}"

    def key(self) -> tuple[str, str, str]:
        """By which it is known when lines have moved."""
        return self.file, self.before.strip(), self.after.strip()


def code_lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Number, line, and the line with comments and strings blanked out, without directives."""
    hidden = re.sub(
        r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'',
        lambda found: re.sub(r"[^\n]", "\0", found[0]),
        text,
        flags=re.DOTALL,
    )
    for number, (line, code) in enumerate(
        zip(text.split("\n"), hidden.split("\n"), strict=True), 1
    ):
        if not re.match(r"\s*(#|_Static_assert)", code) and code.strip("\0 "):
            yield number, line, code


def mutants_of(file: str, text: str) -> Iterator[Mutant]:
    for number, line, code in code_lines(text):
        for old, new in SWAPS:
            for found in re.finditer(re.escape(old), code):
                begin, end = found.span()
                inside = old in WORD and re.match(
                    r"\w", code[begin - 1 : begin] + code[end : end + 1]
                )
                if not inside:
                    yield Mutant(file, number, line, line[:begin] + new + line[end:])
        for found in NUMBER.finditer(code):
            more = str(int(found[1]) + 1)
            yield Mutant(file, number, line, line[: found.start()] + more + line[found.end() :])
        call = STATEMENT.match(code)
        if call:
            yield Mutant(file, number, line, f"{call[1]};")


def all_mutants(patterns: list[str]) -> list[Mutant]:
    found: list[Mutant] = []
    for folder in FOLDERS:
        for path in sorted((ROOT / "csrc" / folder).rglob("*.[chi]*")):
            name = path.relative_to(ROOT).as_posix()
            if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
                found += mutants_of(name, path.read_text())
    return found


def run(*command: str | Path, cwd: Path, **environment: str) -> int | None:
    """The status of a command, or None where it takes too long."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, "OMP_WAIT_POLICY": "passive", **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None
    return done.returncode


class Tree:
    """A copy of the tree, with the objects of the extension and of the core's test program."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tree"
        ignored = shutil.ignore_patterns(
            ".git", ".venv*", "build", "*.egg-info", ".*_cache", "docs"
        )
        shutil.copytree(ROOT, self.root, ignore=ignored)
        self.objects = self.root / "objects"
        self.objects.mkdir()
        self.flags = [*FLAGS, "-Itests/native", f"-I{sysconfig.get_paths()['include']}"]
        self.flags += ["-DPy_LIMITED_API=0x030A0000", "-DNDEBUG"]
        self.extension = [
            p.relative_to(self.root) for p in sorted((self.root / "csrc").rglob("*.c"))
        ]
        tests = sorted((self.root / "tests/native").glob("*.c"))
        self.program = [p.relative_to(self.root) for p in tests]
        self.needs = {source: self.dependencies(source) for source in self.extension + self.program}
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            built = list(threads.map(self.compile, self.extension + self.program))
        if not all(built) or not self.link():
            sys.exit("mutants: the tree does not build")

    def dependencies(self, source: Path) -> set[str]:
        """The files that a source includes, itself among them."""
        listed = subprocess.run(
            ["gcc", "-MM", *self.flags, source],
            cwd=self.root, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        return {os.path.normpath(word) for word in listed.replace("\\\n", " ").split()[1:]}

    def object(self, source: Path) -> Path:
        return self.objects / (str(source).replace("/", "-") + ".o")

    def compile(self, source: Path) -> bool:
        return run("gcc", *self.flags, "-c", source, "-o", self.object(source), cwd=self.root) == 0

    def link(self) -> bool:
        core = [s for s in self.extension if "csrc/core" in s.as_posix()]
        program = [self.object(s) for s in [*core, *self.program]]
        extension = [self.object(s) for s in self.extension]
        suffix = next((self.root / "yolov5_utils").glob("_C.*so")).name
        return (
            run("gcc", *program, "-o", "test_core", "-lm", "-pthread", cwd=self.root) == 0
            and run("gcc", "-shared", *extension, "-o", f"yolov5_utils/{suffix}", "-lm", "-ldl",
                    cwd=self.root) == 0
        )  # fmt: skip

    def judge(self, mutant: Mutant) -> str:
        """What became of a mutant; the tree is afterwards as before."""
        path = self.root / mutant.file
        original = path.read_text()
        lines = original.split("\n")
        lines[mutant.line - 1] = mutant.after
        touched = [source for source, needed in self.needs.items() if mutant.file in needed]
        kept = {source: self.object(source).read_bytes() for source in touched}
        try:
            path.write_text("\n".join(lines))
            if not all(self.compile(source) for source in touched):
                return "does not compile"
            if all(self.object(source).read_bytes() == old for source, old in kept.items()):
                return "same code"
            return self.test(mutant.file) if self.link() else "does not compile"
        finally:
            path.write_text(original)
            for source, old in kept.items():
                self.object(source).write_bytes(old)

    def test(self, file: str) -> str:
        if file.startswith("csrc/core") and run("./test_core", "--brief", cwd=self.root) != 0:
            return "killed by test_core"
        tests = self.root / "tests"
        files = [path for chosen in tests_of(file) for path in sorted(tests.glob(chosen))]
        command = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
        marks = ("-m", "not slow and not long")
        return (
            "SURVIVED" if run(*command, *marks, *files, cwd=self.root) == 0 else "killed by pytest"
        )


def tests_of(file: str) -> tuple[str, ...]:
    for beginning, tests in TESTS.items():
        if file.startswith(beginning):
            return (*tests, *EVERY_FILE)
    stem = re.sub(r"_(apply|select|ties|module)$", "", Path(file).stem)
    return (f"unit/test_{stem}*.py", *EVERY_FILE)


def explanations() -> set[tuple[str, str, str]]:
    """The survivors that are all right: the file's blocks of file, before, after, reason."""
    blocks = EXPLAINED.read_text().split("\n\n")
    return {tuple(block.strip().split("\n")[:3]) for block in blocks if block[:1] not in ("#", "")}  # type: ignore[misc]


def main() -> int:
    parser = argparse.ArgumentParser("tools/mutants.py", description=__doc__)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    population = all_mutants(asked.patterns)
    chosen = random.Random(asked.seed).sample(population, min(asked.count, len(population)))
    counts, survivors, explained = Counter[str](), 0, explanations()
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        for mutant in chosen:
            fate = tree.judge(mutant)
            if fate == "SURVIVED" and mutant.key() in explained:
                fate = "explained"
            survivors += fate == "SURVIVED"
            counts[fate.split(" by ")[0]] += 1
            print(f"{fate:32} {mutant}", flush=True)
    judged = sum(counts[fate] for fate in ("killed", "SURVIVED"))
    told = ", ".join(f"{count} {fate}" for fate, count in counts.items())
    rate = f"{100 * counts['killed'] / judged:.0f} %" if judged else "none"
    print(f"evidence: mutants: {len(chosen)} of {len(population):,}: {told}; kill rate {rate}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
