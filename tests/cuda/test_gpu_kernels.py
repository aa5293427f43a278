"""The program that compute-sanitizer watches on a GPU, on the emulated one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .stand_in import FLAGS, ROOT, build, build_emulated, compiler

pytestmark = pytest.mark.slow
WARNINGS = [flag for flag in FLAGS if flag.startswith(("-std", "-W"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the program, and the emulated library and driver in one."""
    made, found = tmp_path_factory.mktemp("kernels"), compiler()
    if found is None or build_emulated(made) is None:
        pytest.skip("no compiler for C and C++")
    folders = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'cuda'}"]
    source, program = ROOT / "tools" / "gpu_kernels.c", made / "kernels"
    command = [found, *WARNINGS, "-Wextra", *folders, str(source), "-o", str(program), "-ldl"]
    subprocess.run(command, check=True, timeout=120)
    return made


def run(folder: Path, library: Path, *more: str) -> tuple[int, str]:
    command = [folder / "kernels", library, folder / "emulated.so", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("more", ([], ["overrun"]), ids=("all", "overrun"))
def test_it_runs_to_its_end(folder: Path, more: list[str]) -> None:
    assert run(folder, folder / "emulated.so", *more) == (0, "all kernels ran\n")


def test_a_library_that_computes_nothing_is_noticed(folder: Path) -> None:
    status, said = run(folder, build("fake_library.c", folder))
    assert (status, said) == (1, "ema_update: 0 a wrong average\n")


def test_a_missing_library_is_named(folder: Path) -> None:
    status, said = run(folder, folder / "nothing.so")
    assert status == 1
    assert said.startswith(f"{folder / 'nothing.so'}: 0 ")
