"""Which slips the tests let pass: python tools/mutants.py [--count N] [--seed S] [PATTERN...]

Changes one operator or constant of csrc at a time, in a copy of the tree, builds what depends on
it, runs the core's test program, also sanitized, the quick tests of that file, then those of
robustness and CUDA, and lists the mutants that survive all of them: each is to be killed by a new
test or explained in tools/mutants.txt. PATTERN chooses files ("csrc/core/*"). A mutant with the
same machine code as the original is not counted. In the end the tests that killed must pass
without a mutant."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import itertools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
EXPLAINED = ROOT / "tools" / "mutants.txt"
FOLDERS = ("core", "plan", "python")
# A mutant that hangs is noticed, too, and one that asks for all memory.
HANGS_SECONDS = 60  # the core's program, or one test
LIMIT_SECONDS = 900  # any command
LIMIT_BYTES = 16 << 30  # the addresses of a process, of which torch takes several GB
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

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
SANITIZED = ".sanitized.o"
RUN_SANITIZED = (
    "ulimit -Sv unlimited && exec ./sanitized --brief"  # its shadow is 20 TB of addresses
)

# What becomes of what. A binary operator stands between spaces, as clang-format has it.
SWAPS = (
    *((" == ", " != "), (" != ", " == "), (" < ", " <= "), (" <= ", " < "), (" > ", " >= ")),
    *((" >= ", " > "), (" && ", " || "), (" || ", " && "), (" + ", " - "), (" - ", " + ")),
    *((" / ", " * "), (" % ", " / "), (" << ", " >> "), (" >> ", " << "), (" & ", " | ")),
    *((" | ", " & "), (" += ", " -= "), (" -= ", " += "), ("++", "--"), ("--", "++")),
    *(("true", "false"), ("false", "true"), ("(!", "("), (" !", " ")),
)
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTHONUNBUFFERED": "1",  # what a crash leaves unsaid
}
KILLED, SURVIVED = "killed by ", "SURVIVED"
WORD = {"true", "false"}
NUMBER = re.compile(r"(?<![\w.\"])(-?)(\d+)(?![\w.\"])")
# A call whose result nobody takes, alone on its line.
STATEMENT = re.compile(r"^( +)((?:\(void\))?[A-Za-z_]\w*(?:->\w+|\.\w+)*\(.*\));$")

# Tests by the beginning of a file's name; the first that fits, and by default those of its name.
EMA = ("unit/test_ema*.py", "robustness/test_modules_odd.py")
GPU = ("unit/test_fuse_gpu.py", "unit/test_devices.py")
COMMON = tuple(f"unit/test_{name}.py" for name in ("ema", "fuse", "prune", "scale_img", "sparsity"))
TESTS = {
    "csrc/core/half": COMMON,
    "csrc/core/huge_pages": COMMON,
    "csrc/core/streams": COMMON,
    "csrc/core/y5": COMMON,
    "csrc/core/mt19937": ("unit/test_skip_random.py",),
    "csrc/core/levels": ("unit/test_configure.py", "unit/test_ema.py"),
    "csrc/core/overlap": ("unit/test_ema_refusals.py", "unit/test_ema.py"),
    "csrc/plan/fuse_gpu": GPU,
    "csrc/plan/plan": (*COMMON, *GPU),
    "csrc/python/ops/fuse_gpu": GPU,
    "csrc/python/ops/cuda_library": ("cuda/test_loader.py",),
    "csrc/python/ops/ema": EMA,
    "csrc/python/borrowed": (*EMA, "unit/test_sparsity.py"),
    "csrc/python/cuda_loader": ("cuda/test_loader.py", "unit/test_devices.py"),
    "csrc/python/module_walk": (*EMA, "unit/test_sparsity.py"),
    "csrc/python/plain_module": (*EMA, "unit/test_fuse*.py"),
    "csrc/python/state": COMMON,
    "csrc/python/trail": EMA,
    "csrc/python/dlpack": ("robustness/test_producers.py",),
    "csrc/python/tensor": (
        *("robustness/test_producers.py", "unit/test_ema.py"),
        *("unit/test_sparsity.py", "robustness/test_odd_exchange.py"),
    ),
    "csrc/python/torch_": (
        *("unit/test_configure.py", "robustness/test_environment.py"),
        *("unit/test_ema.py", "robustness/test_threads_fork.py"),
    ),
    "csrc/python/call": (*EMA, *GPU, "unit/test_prune.py", "robustness/test_kept_gil.py"),
    "csrc/python/questions": EMA,
    "csrc/python/module": ("unit/test_configure.py", "unit/test_cli.py"),
    "csrc/python/bindings": ("robustness/test_environment.py", "unit/test_ema_refusals.py"),
    "csrc/python/errors": ("robustness/test_producers.py", "unit/test_ema_refusals.py"),
}
# And by its folder.
MORE_TESTS = {
    "csrc": ("robustness/test_tensors_odd.py", "unit/test_scalars.py"),
    "csrc/plan": ("unit/test_devices.py", "cuda/test_takeover.py"),
    "csrc/python/ops": ("unit/test_devices.py", "cuda/test_takeover.py"),
    "csrc/python": ("robustness/test_leaks.py", "robustness/test_odd_keys.py"),
}


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
                around = code[begin - 1 : begin] + code[end : end + 1]
                inside = old in WORD and re.search(r"\w", around)
                if not inside and not (old == " !" and around[1:] == "="):
                    yield Mutant(file, number, line, line[:begin] + new + line[end:])
        for found in NUMBER.finditer(code):
            new = found[2] if found[1] else str(int(found[2]) + 1)  # -1 is a failure; so is -2
            yield Mutant(file, number, line, line[: found.start()] + new + line[found.end() :])
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


def run(*command: str | Path, cwd: Path, limit: int = LIMIT_SECONDS) -> tuple[int, str]:
    """The status of a command, not 0 where it takes too long, and what it has printed."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(limit)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its children, and itself where it hangs
        status = process.wait()
        output.seek(0)
        return status, output.read()


class Tree:
    """A copy of the tree, with the objects of the extension and of the core's test program."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tree"
        ignored = shutil.ignore_patterns(".git", ".venv*", "build", "*.egg-info", ".*_cache")
        shutil.copytree(ROOT, self.root, ignore=ignored)
        self.objects = self.root / "objects"
        self.objects.mkdir()
        self.flags = [*FLAGS, "-Itests/native", f"-I{sysconfig.get_paths()['include']}"]
        self.flags += ["-DPy_LIMITED_API=0x030A0000", "-DNDEBUG"]
        self.extension = [
            p.relative_to(self.root) for p in sorted((self.root / "csrc").rglob("*.c"))
        ]
        self.core = [s for s in self.extension if s.parts[1] == "core"]
        tests = sorted((self.root / "tests/native").glob("*.c"))
        self.program = [p.relative_to(self.root) for p in tests]
        self.needs = {source: self.dependencies(source) for source in self.extension + self.program}
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            built = list(threads.map(self.compile, self.extension + self.program))
        self.explained = explanations()
        self.unsound: list[str] = []  # tests that fail anyway
        if not all(built) or not self.link() or self.core_fails():
            sys.exit("mutants: the tree does not build, or its core's tests fail")
        if self.pytest("--co", "tests/unit", "tests/robustness", "tests/cuda")[0] != 0:
            sys.exit("mutants: the tests cannot be loaded")

    def dependencies(self, source: Path) -> set[str]:
        """The files that a source includes, itself among them."""
        listed = subprocess.run(
            ["gcc", "-MM", *self.flags, source],
            cwd=self.root, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        return {os.path.normpath(word) for word in listed.replace("\\\n", " ").split()[1:]}

    def succeeds(self, *command: str | Path, limit: int = LIMIT_SECONDS) -> bool:
        return run(*command, cwd=self.root, limit=limit)[0] == 0

    def object(self, source: Path, ending: str = ".o") -> Path:
        return self.objects / (str(source).replace("/", "-") + ending)

    def compile(self, source: Path, *more: str, into: Path | None = None) -> bool:
        command = ("gcc", *self.flags, *more, "-c", source, "-o", into or self.object(source))
        return self.succeeds(*command)

    def link(self) -> bool:
        program = [self.object(s) for s in [*self.core, *self.program]]
        extension = [self.object(s) for s in self.extension]
        suffix = next((self.root / "yolov5_utils").glob("_C.*so")).name
        library = f"yolov5_utils/{suffix}"
        return self.succeeds(
            "gcc", *program, "-o", "test_core", "-lm", "-pthread"
        ) and self.succeeds("gcc", "-shared", *extension, "-o", library, "-lm", "-ldl")

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
            if mutant.key() in self.explained:
                return "explained"
            return self.test(mutant.file, touched) if self.link() else "does not compile"
        finally:
            path.write_text(original)
            for source, old in kept.items():
                self.object(source).write_bytes(old)

    def core_fails(self) -> bool:
        return not self.succeeds("./test_core", "--brief", limit=HANGS_SECONDS)

    def core_overruns(self, changed: list[Path]) -> bool:
        """Under the sanitizers, for which the core is compiled where that was not done before."""

        def is_made(source: Path) -> bool:
            into = self.object(source, SANITIZED)
            fresh = into.exists() and source not in changed
            return fresh or self.compile(source, *SANITIZERS, into=into)

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            made = all(threads.map(is_made, self.core))
        objects = [self.object(source, SANITIZED) for source in self.core]
        objects += [self.object(source) for source in self.program]
        command = ("gcc", *SANITIZERS, *objects, "-o", "sanitized", "-lm", "-pthread")
        passed = made and self.succeeds(*command) and self.succeeds("bash", "-c", RUN_SANITIZED)
        for source in changed:
            self.object(source, SANITIZED).unlink(missing_ok=True)
        return not passed

    def pytest(self, *arguments: str | Path) -> tuple[int, dict[str, str]]:
        """Its status, and the outcome of each test that it began, "" where it did not end."""
        status, printed = run(
            *(sys.executable, "-m", "pytest", "-v", "--tb=no", "--disable-warnings"),
            *("-p", "no:cacheprovider", "-p", "tools.mutants"),
            *("-o", f"faulthandler_timeout={HANGS_SECONDS}"),
            *("-o", "faulthandler_exit_on_timeout=true", "-m", "not slow and not long"),
            *(*(f"--deselect={test}" for test in self.unsound), *arguments),
            cwd=self.root,
        )
        line = r"^(tests/\S+?::.*?) ?(?: (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b.*)?$"
        return status, dict(re.findall(line, printed, re.MULTILINE))

    def test(self, file: str, changed: list[Path]) -> str:
        if file.startswith("csrc/core"):
            if self.core_fails():
                return f"{KILLED}test_core"
            if self.core_overruns(changed):
                return f"{KILLED}test_core, sanitized"
        tests = self.root / "tests"
        files = [path for chosen in tests_of(file) for path in sorted(tests.glob(chosen))]
        more = ["-m", "not long", tests / "robustness", tests / "cuda"]  # minutes, so not at first
        for chosen in (files, more):
            status, outcomes = self.pytest("-x", *chosen)
            if status != 0:
                return f"{KILLED}{list(outcomes)[-1] if outcomes else 'import'}"
        return SURVIVED

    def find_unsound(self, fates: set[str]) -> set[str]:
        """Those by a test that does not pass without a mutant either; it judges no more."""
        killers = {fate: fate.removeprefix(KILLED) for fate in fates if "::" in fate}
        again = ("-m", "not long", *sorted(killers.values()))
        outcomes = self.pytest(*again)[1] if killers and self.link() else {}
        unsound = {fate for fate, test in killers.items() if outcomes.get(test) != "PASSED"}
        self.unsound += [killers[fate] for fate in unsound]
        return unsound


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """In pytest, whose plugin this is: one case of each test first, since most mutants fail in many
    cases; then from the end, where the tests of leaks are and the highest instruction levels."""
    first = {item.nodeid.partition("[")[0]: item for item in reversed(items)}
    later = [item for item in items if first[item.nodeid.partition("[")[0]] is not item]
    items[:] = [*reversed(first.values()), *reversed(later)]


def tests_of(file: str) -> tuple[str, ...]:
    stem = re.sub(r"_(apply|select|ties|module)$", "", Path(file).stem)
    tests = next(
        (tests for beginning, tests in TESTS.items() if file.startswith(beginning)),
        (f"unit/test_{stem}*.py",),
    )
    more = [more for folder, more in MORE_TESTS.items() if file.startswith(f"{folder}/")]
    return (*tests, *itertools.chain(*more))


def explanations() -> set[tuple[str, str, str]]:
    """Mutants that are all right, and not run: the file's blocks of file, before, after, reason."""
    blocks = EXPLAINED.read_text().split("\n\n")
    return {tuple(block.strip().split("\n")[:3]) for block in blocks if block[:1] not in ("#", "")}  # type: ignore[misc]


def main() -> int:
    parser = argparse.ArgumentParser("tools/mutants.py", description=__doc__)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    population = all_mutants(asked.patterns)
    chosen = random.Random(asked.seed).sample(population, min(asked.count, len(population)))
    fates: dict[Mutant, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        while unjudged := [mutant for mutant in chosen if mutant not in fates]:
            for mutant in unjudged:
                begin = time.monotonic()
                fates[mutant] = tree.judge(mutant)
                print(f"{fates[mutant]} ({time.monotonic() - begin:.0f} s): {mutant}", flush=True)
            unsound = tree.find_unsound({fates[mutant] for mutant in unjudged})
            fates = {mutant: fate for mutant, fate in fates.items() if fate not in unsound}
    counts = Counter(fate.split(" by ")[0] for fate in fates.values())
    judged = sum(counts[fate] for fate in ("killed", SURVIVED))
    told = ", ".join(f"{count} {fate}" for fate, count in counts.items())
    rate = f"{100 * counts['killed'] / judged:.0f} %" if judged else "none"
    print(f"evidence: mutants: {len(chosen)} of {len(population):,}: {told}; kill rate {rate}")
    return 1 if counts[SURVIVED] else 0


if __name__ == "__main__":
    sys.exit(main())
