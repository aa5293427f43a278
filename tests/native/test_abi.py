"""Our own declarations of what torch exports, compared by a C++ compiler with the headers of the
installed torch; and the proof that every single comparison can fail."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

from .building import HERE, ROOT, need, run

CSRC = ROOT / "csrc"
INCLUDE = Path(torch.__file__).parent / "include"
DLPACK_HEADER = CSRC / "python" / "dlpack_abi.h"


def need_header(name: str, word: str) -> None:
    """Skips where the installed torch does not declare `word` in its header `name`."""
    header = INCLUDE / name
    if not header.is_file():
        pytest.skip(f"torch {torch.__version__} comes without {name}")
    if word not in header.read_text():
        pytest.skip(f"{name} of torch {torch.__version__} has no {word}")


@pytest.fixture(scope="module")
def dlpack() -> str:
    """The file that compares DLPack."""
    need_header("ATen/dlpack.h", "DLPackExchangeAPI")
    return "abi_dlpack.cpp"


@pytest.fixture(scope="module")
def shim() -> str:
    """The file that compares torch's C functions."""
    need_header("torch/csrc/stable/c/shim.h", "torch_parallel_for")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        pytest.skip("Python's headers are not installed")
    return "abi_shim.cpp"


def compile_against_torch(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Checks `source` with the headers of `folder` in front of the project's."""
    (folder / "stdatomic.h").touch()
    places = (folder, CSRC, INCLUDE, sysconfig.get_paths()["include"])
    options = [f"-I{place}" for place in places]
    return run(need("g++"), "-std=c++20", "-fsyntax-only", *options, HERE / source)


def failures(source: str, folder: Path) -> set[str]:
    """The messages of the assertions that fail."""
    done = compile_against_torch(source, folder)
    assert done.returncode != 0
    return set(re.findall(r"static assertion failed: (.+)", done.stderr))


def plant(folder: Path, name: str, *changes: tuple[str, str]) -> None:
    """A copy of a header of csrc with changes, each of which must fit somewhere."""
    text = (CSRC / name).read_text()
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text)
        assert count, f"{pattern} fits nowhere in {name}"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_dlpack_is_what_torch_has(dlpack: str, tmp_path: Path) -> None:
    done = compile_against_torch(dlpack, tmp_path)
    assert done.returncode == 0, done.stderr


def test_functions_are_what_torch_has(shim: str, tmp_path: Path) -> None:
    done = compile_against_torch(shim, tmp_path)
    assert done.returncode == 0, done.stderr


def compared(source: str) -> list[list[str]]:
    """The uses of the SAME_... macros: name and arguments."""
    text = re.sub(r"#define(?:.*\\\n)*.*|//.*", "", (HERE / source).read_text())
    uses = re.findall(r"\b(SAME_\w+)\(([^()]*)\);", text)
    return [[name, *re.split(r",\s*", arguments)] for name, arguments in uses]


def test_nothing_of_our_header_is_left_out() -> None:
    text = re.sub(r"/\*.*?\*/", "", DLPACK_HEADER.read_text(), flags=re.DOTALL)
    numbers = set(re.findall(r"\b(DLPACK_\w+) =|#define (DLPACK_FLAG\w+)", text))
    fields = {
        (struct, field)
        for body, struct in re.findall(r"typedef struct[^{]*\{(.*?)\} (\w+);", text, re.DOTALL)
        for statement in body.split(";")[:-1]
        for field in re.findall(r"\(\*(\w+)\)\(|(\w+)$", statement)[:1]
    }
    uses = compared("abi_dlpack.cpp")
    assert {a or b for a, b in numbers} == {use[1] for use in uses if use[0] == "SAME_NUMBER"}
    assert {(struct, a or b) for struct, (a, b) in fields} == {
        (use[1], use[2]) for use in uses if use[0] in ("SAME_PLACE", "SAME_FIELD")
    }
    assert {struct for struct, _ in fields} == {use[1] for use in uses if use[0] == "SAME_SIZE"}


OTHER_NUMBERS = (r"(DLPACK_\w+ = \d+)", r"\1 + 50"), (r"\(\(uint64_t\)1\)", "((uint64_t)2)")
OTHER_PLACES = ((r"(typedef struct[^{;]*\{)", r"\1 char planted[8];"),)
OTHER_TYPES = (
    (r"\b(dlpack_\w+) (device|dtype|tensor|version|header);", r"char \2[sizeof(\1)];"),
    (r"struct dlpack_exchange_header \*previous", "int *previous"),
    (r"\b(u?)int(8|16|32|64)_t (?=[*\w]+;)", r"\1short_\2 "),
    (r"\bushort_(\d+)", r"int\1_t"),
    (r"\bshort_(\d+)", r"uint\1_t"),
    (r"\bvoid \*(?=\w+;)", "char *"),
    (r"\b(?:void|int) \(\*", "long (*"),
)


def test_every_comparison_of_dlpack_can_fail(dlpack: str, tmp_path: Path) -> None:
    """Three wrong headers: all numbers, all places and sizes, all types."""
    failed: set[str] = set()
    for i, changes in enumerate((OTHER_NUMBERS, OTHER_PLACES, OTHER_TYPES)):
        folder = tmp_path / str(i)
        plant(folder, "python/dlpack_abi.h", *changes)
        failed |= failures(dlpack, folder)
    expected = set()
    for kind, _, *others in compared(dlpack):
        if kind == "SAME_FIELD":
            expected |= {f"place {others[1]}.{others[2]}", f"type {others[1]}.{others[2]}"}
        elif kind == "SAME_PLACE":
            expected.add(f"place {others[1]}.{others[2]}")
        else:
            expected.add(f"{kind.removeprefix('SAME_').lower()} {others[0]}")
    assert failed == expected


POOL, STATE_POOL = "type torch_parallel_for", "type torch_parallel_for in the state"
THREADS = "type torch_get_num_threads"


@pytest.mark.parametrize(
    ("name", "pattern", "replacement", "failing"),
    [
        ("core/parallel.h", "int64_t grain,", "int32_t grain,", {POOL, STATE_POOL}),
        ("core/parallel.h", r"int32_t \(\*y5_pool", "void (*y5_pool", {POOL, STATE_POOL}),
        ("python/state.h", "y5_pool_function parallel_for", "void *parallel_for", {STATE_POOL}),
        ("python/state.h", r"\(uint32_t \*out\)", "(int32_t *out)", {THREADS}),
    ],
)
def test_every_comparison_of_functions_can_fail(
    shim: str, tmp_path: Path, name: str, pattern: str, replacement: str, failing: set[str]
) -> None:
    plant(tmp_path, name, (pattern, replacement))
    assert failures(shim, tmp_path) == failing
