"""Builds C and C++ for the tests in this folder: setup.py's own flags, one run() for all.

python -m tests.native.building FOLDER FLAGS...     builds and runs the core's test program
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CORE = ROOT / "csrc" / "core"
SOURCES = [*sorted(HERE.glob("*.c")), *sorted(CORE.glob("*.c"))]
LIMIT_SECONDS = 300  # a test that hangs is a failure, not a wait

pytest.importorskip("setuptools", reason="setup.py's flags need setuptools")


def clean_environment(**more: str) -> dict[str, str]:
    """This environment without switches of the package, builds or checkers; and `more`."""
    dropped = ("YOLOV5_", "PYTHON", "CFLAGS", "ASAN_", "UBSAN_", "TSAN_", "LD_PRELOAD")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return {**kept, **more}


def run(
    *command: str | Path, cwd: Path = HERE, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The finished command, whichever way it ended."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment or clean_environment(),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=LIMIT_SECONDS,
    )


def succeed(*command: str | Path, **how: object) -> str:
    """What a command printed; its failure shows it."""
    done = run(*command, **how)  # type: ignore[arg-type]
    printed = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{printed}"
    return printed


def need(tool: str) -> str:
    """The path of a program; the test is skipped where there is none."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    return found


def need_sanitizer(library: str) -> Path:
    """The path of gcc's run-time library of a sanitizer; skipped where it is not installed."""
    found = Path(succeed(need("gcc"), f"-print-file-name={library}").strip())
    if not found.is_absolute():
        pytest.skip(f"gcc comes without {library}")
    return found


def compile_flags() -> list[str]:
    """What setup.py gives the compiler when no build switch is set."""
    with (
        mock.patch("setuptools.setup"),
        mock.patch.dict(os.environ, clean_environment(), clear=True),
    ):
        return runpy.run_path(str(ROOT / "setup.py"))["compiler_arguments"]()[0]


def compile_objects(sources: list[Path], into: Path, compiler: str, *flags: str | Path) -> None:
    """One object file per source, several at a time; `flags` come after setup.py's."""
    command = [need(compiler), *compile_flags(), *flags, f"-I{ROOT / 'csrc'}", f"-I{HERE}"]

    def compile_one(source: Path) -> None:
        succeed(*command, "-c", source, "-o", into / f"{source.stem}.o")

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(compile_one, sources))


def link_program(into: Path, compiler: str, *flags: str) -> Path:
    """The program of all object files in a folder, put beside them."""
    program = into / "test_core"
    objects = sorted(into.glob("*.o"))
    succeed(need(compiler), *flags, *objects, "-o", program, "-lm", "-pthread")
    return program


def build_program(into: Path, compiler: str, *flags: str) -> Path:
    """The test program: the core with setup.py's flags and `flags`, the tests themselves at -O1."""
    compile_objects(
        [path for path in SOURCES if path.parent == HERE], into, compiler, "-O1", *flags
    )
    compile_objects([path for path in SOURCES if path.parent == CORE], into, compiler, *flags)
    return link_program(into, compiler, *flags)


if __name__ == "__main__":
    print(succeed(build_program(Path(sys.argv[1]), "gcc", *sys.argv[2:]), "--brief"))
