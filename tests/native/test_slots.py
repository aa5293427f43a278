"""What the extension tells interpreters of itself: one file for all of them, from 3.10 on, and each
refuses numbers of slots that it does not know."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import sysconfig
from pathlib import Path

import pytest

from yolov5_utils import _C

from .building import ROOT, need, succeed

EXEC, INTERPRETERS, GIL = 2, 3, 4  # Py_mod_exec, Py_mod_multiple_interpreters, Py_mod_gil
KNOWN_BY = {
    "3.10.0 (main)": [EXEC],
    "3.11.7 (main)": [EXEC],
    "3.12.0rc1 (main)": [INTERPRETERS, EXEC],
    "3.13.1 (main)": [GIL, INTERPRETERS, EXEC],
    "3.14.0 (main)": [GIL, INTERPRETERS, EXEC],
    "3.20.0 (main)": [GIL, INTERPRETERS, EXEC],
}
PLANT = """
#include <stdlib.h>
static inline const char *planted_version(void) { return getenv("PLANTED_VERSION"); }
#define Py_GetVersion planted_version
"""


class Slot(ctypes.Structure):
    _fields_ = (("number", ctypes.c_int), ("value", ctypes.c_void_p))


class Definition(ctypes.Structure):
    """PyModuleDef, up to what is looked at."""

    _fields_ = (
        ("base", ctypes.c_char * (object.__basicsize__ + 3 * ctypes.sizeof(ctypes.c_void_p))),
        *((name, ctypes.c_void_p) for name in ("name", "doc", "size", "methods")),
        ("slots", ctypes.POINTER(Slot)),
    )


def slots_of(library: str) -> list[tuple[int, int | None]]:
    """The numbers and values of the slots that a library's module has here."""
    start = ctypes.PyDLL(library).PyInit__C
    start.restype = ctypes.c_void_p  # lent, not given
    definition = Definition.from_address(start())
    found = []
    for slot in definition.slots:
        if slot.number == 0:
            return found
        found.append((slot.number, slot.value))
    raise AssertionError("no end")


def judge(found: list[tuple[int, int | None]], numbers: list[int]) -> None:
    assert [number for number, _ in found] == numbers
    # 0: the GIL is used; in one interpreter only.
    assert all(value is None for number, value in found if number != EXEC)


def test_here() -> None:
    later = [GIL] * (sys.version_info >= (3, 13)) + [INTERPRETERS] * (sys.version_info >= (3, 12))
    judge(slots_of(_C.__file__), [*later, EXEC])


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extension, which believes what it is told of the interpreter."""
    folder = tmp_path_factory.mktemp("slots")
    (folder / "plant.h").write_text(PLANT)
    built = folder / "_C.so"
    succeed(
        *(need("gcc"), "-std=c11", "-O0", "-shared", "-fPIC", "-DPy_LIMITED_API=0x030A0000"),
        *("-Icsrc", "-Icuda", f"-I{sysconfig.get_paths()['include']}"),
        *("-D_GNU_SOURCE", "-include", str(folder / "plant.h")),
        *(path.as_posix() for path in sorted((ROOT / "csrc").rglob("*.c"))),
        *("-o", str(built), "-ldl", "-lm"),
        cwd=ROOT,
    )
    return built


@pytest.mark.slow
@pytest.mark.parametrize("version", KNOWN_BY)
def test_other_interpreters(library: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_VERSION", version)
    judge(slots_of(str(library)), KNOWN_BY[version])


def load(library: Path) -> None:
    spec = importlib.util.spec_from_file_location("_C", library)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="this interpreter knows all slots")
def test_an_older_one_would_refuse_them(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the choice is needed: with what 3.13 is told, the import fails here."""
    monkeypatch.setenv("PLANTED_VERSION", f"3.{sys.version_info[1]}.0")
    load(library)
    monkeypatch.setenv("PLANTED_VERSION", "3.13.0")
    with pytest.raises(SystemError, match="unknown slot"):
        load(library)
