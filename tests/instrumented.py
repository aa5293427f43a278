"""Copies of the checkout with an instrumented extension:

python -m tests.instrumented KIND COMMAND...    runs a command in one, made anew in build/KIND
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FAULTS = ROOT / "tests" / "robustness" / "faults"
NOT_COPIED = (".*", "build", "dist", "*.egg-info", "*.so", "*.o", "__pycache__")
DOTTED = (".ci", ".github", ".clang-format", ".clang-tidy", ".editorconfig", ".gitignore")
BUILD_LIMIT_S = 600
REPORT = "report"  # of a sanitizer, with the number of its process behind


class Kind(NamedTuple):
    switches: tuple[str, ...]  # of setup.py
    sanitized: bool = False
    faults: bool = False
    debug_python: bool = False


KINDS = {
    "sanitize": Kind(("YOLOV5_UTILS_SANITIZE",), sanitized=True),
    "coverage": Kind(("YOLOV5_UTILS_COVERAGE",), faults=True),
    "faults": Kind(("YOLOV5_UTILS_DEBUG",), faults=True),
    "faults-sanitize": Kind(
        ("YOLOV5_UTILS_DEBUG", "YOLOV5_UTILS_SANITIZE"), sanitized=True, faults=True
    ),
    "references": Kind(("YOLOV5_UTILS_DEBUG",), faults=True, debug_python=True),
}


def debug_python() -> str | None:
    """A Python that counts all references, as Debian builds one; it has no torch."""
    return next(
        filter(None, (shutil.which(f"python3.{minor}-dbg") for minor in range(10, 20))), None
    )


def python_of(kind: str) -> str:
    """The interpreter that runs on the copy."""
    found = debug_python() if KINDS[kind].debug_python else sys.executable
    return found or sys.exit(f"{kind}: no python3-dbg is installed")


def wrapped_names() -> list[str]:
    """The functions whose calls points.h leads to faults.c."""
    text = (FAULTS / "points.h").read_text()
    written = re.search(r"#define WRITTEN_OUT((?:.*\\\n)*.*)", text)
    assert written is not None
    return [*re.findall(r"\bX\((\w+), ", text), *re.findall(r"\w+", written[1])]


def link_flags(into: Path, python: str) -> str:
    """Compiles faults.c; what the linker has to be told of it."""
    built = into / "faults.o"
    ask = "import sysconfig; print(sysconfig.get_paths()['include'])"
    include = subprocess.check_output([python, "-c", ask], text=True).strip()
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-fPIC"]
    command += ["-fvisibility=hidden", f"-I{ROOT / 'csrc'}", f"-I{include}", "-c"]
    subprocess.run([*command, FAULTS / "faults.c", "-o", built], check=True, timeout=BUILD_LIMIT_S)
    return " ".join([str(built), *(f"-Wl,--wrap={name}" for name in wrapped_names())])


def make(kind: str, into: Path) -> Path:
    """A copy of the checkout in `into` with the extension of that kind in it."""
    found = KINDS[kind]
    ignored = shutil.ignore_patterns(*NOT_COPIED)

    def ignore(folder: str, names: list[str]) -> set[str]:
        return set(ignored(folder, names)) - set(DOTTED)

    python = python_of(kind)
    shutil.copytree(ROOT, into, ignore=ignore, symlinks=True)
    dropped = ("YOLOV5_", "CFLAGS", "LDFLAGS", "LD_PRELOAD")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    environment |= dict.fromkeys(found.switches, "1")
    environment |= {"CC": "gcc", "YOLOV5_UTILS_CUDA": "0", "CFLAGS": "-UNDEBUG"}
    if found.faults:
        environment["LDFLAGS"] = link_flags(into, python)
    if kind == "coverage":
        environment["CFLAGS"] += " -fprofile-update=atomic"  # several threads count
    if found.debug_python:
        setuptools = importlib.util.find_spec("setuptools")
        assert setuptools is not None
        assert setuptools.origin is not None
        environment["PYTHONPATH"] = str(Path(setuptools.origin).parents[1])
    command = (python, "setup.py", "-q", "build_ext", "--inplace", "--build-temp", "temp")
    subprocess.run(command, cwd=into, env=environment, check=True, timeout=BUILD_LIMIT_S)
    return into


def gcc_library(name: str) -> str:
    """The path of a library that comes with gcc."""
    return subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()


def environment_of(kind: str, folder: Path) -> dict[str, str]:
    """What a program needs to run on the copy. torch throws C++ exceptions: the sanitizer has to
    find them when it starts. What Python leaves to the system at its end is no leak of ours."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that wait take no time from the others
    if KINDS[kind].sanitized:
        preloaded = (gcc_library("libasan.so"), gcc_library("libstdc++.so"))
        environment |= {
            "LD_PRELOAD": " ".join(preloaded),
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",  # tests ask for too much
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        }
    return environment


def main(kind: str, *command: str) -> int:
    if kind not in KINDS or not command:
        sys.exit(f"usage: python -m tests.instrumented {'|'.join(KINDS)} COMMAND...")
    folder = ROOT / "build" / kind
    shutil.rmtree(folder, ignore_errors=True)
    make(kind, folder)
    words = [python_of(kind) if word == "python" else word for word in command]
    environment, last = environment_of(kind, folder), ""
    for options in {"ASAN_OPTIONS", "UBSAN_OPTIONS"} & environment.keys():
        environment[options] += f":log_path={folder / REPORT}"  # pytest holds back standard error
    with subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        for line in program.stdout:
            print(line, end="", flush=True)
            last = line.strip("=\n ") or last
    if program.returncode:
        reports = [file.read_text() for file in folder.glob(f"{REPORT}.*")]
        print(*reports, f"{kind}: the command ended with {program.returncode}", sep="\n")
    elif not last.startswith("evidence: "):  # of pytest, say: how many tests have passed
        print(f"evidence: {kind}: {last}")
    return program.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
