"""The environment's variables: which there are, and what is said of one that is misspelt."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from yolov5_utils import _C, switches

from .command_line import OURS, ROOT, STOCK, run

TYPO = {"YOLOV5_UTILS_BACKAND": "torch"}
LINE = (
    "yolov5_utils: YOLOV5_UTILS_BACKAND is not a variable of this package: "
    "did you mean YOLOV5_UTILS_BACKEND?\n"
)
FOLDERS = (".ci", ".github", "benchmarks", "cuda", "docs", "examples", "tests", "tools")


@pytest.mark.parametrize(
    "program",
    [
        (*OURS, "s.py"),
        (*STOCK, "-c", "import yolov5_utils.auto; print('ran')"),
        (*STOCK, "-c", "from yolov5_utils import torch_utils, patch; patch(); print('ran')"),
        (*STOCK, "-c", "from yolov5_utils.overlay import at_start as s; s(); s(); print('ran')"),
    ],
    ids=["launcher", "auto", "own code", "start-up file"],
)
def test_a_misspelt_variable_is_named_once(tmp_path: Path, program: tuple[str, ...]) -> None:
    (tmp_path / "s.py").write_text("from yolov5_utils import torch_utils; print('ran')\n")
    there = {"PYTHONPATH": str(ROOT), "YOLOV5_UTILS_OVERLAY": "1"}
    done = run(program, folder=tmp_path, **there, **TYPO)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", LINE)
    assert run(program, folder=tmp_path, **there, **TYPO, RANK="1").stderr == ""


def test_one_that_is_like_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("YOLOV5_UTILS_ZEBRA", "")
    switches.check()
    said = capsys.readouterr().err
    assert said == (
        "yolov5_utils: YOLOV5_UTILS_ZEBRA is not a variable of this package: "
        "python -m yolov5_utils --help has all\n"
    )


@pytest.mark.parametrize("how", ["sys.stderr = None", "del sys.stderr"])
def test_without_a_stderr_nothing_is_said(how: str) -> None:
    """Least of all on stdout, which another program may read."""
    code = f"import sys, threading; {how}; import yolov5_utils as y; y.patch(); print('ran')"
    done = run(STOCK, "-c", code, **TYPO)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


@pytest.mark.parametrize(
    "name", ["YOLOV5_UTIL_CPU", "YOLOV5UTILS_CPU", "yolov5_utils_cpu", "YOLO5_UTILS_CPU"]
)
def test_one_that_is_misspelt_at_its_beginning(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "portable")
    switches.check()
    said = capsys.readouterr().err
    assert said.startswith(f"yolov5_utils: {name} is not a variable of this package: ")
    assert said.endswith("did you mean YOLOV5_UTILS_CPU?\n")


@pytest.mark.parametrize("name", ["YOLOv5_VERBOSE", "YOLO_CONFIG_DIR", "YOLOv5_AUTOINSTALL"])
def test_those_of_yolov5_are_its_own(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "true")
    switches.check()
    assert capsys.readouterr().err == ""


def test_a_level_of_another_machine_is_named_with_its_variable() -> None:
    for code in ("import yolov5_utils.torch_utils", "import yolov5_utils; yolov5_utils.calls()"):
        other = "avx512" if "neon" in _C.info()["levels_compiled"] else "neon"
        done = run(STOCK, "-c", code, YOLOV5_UTILS_CPU=other)
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"ValueError: YOLOV5_UTILS_CPU: got '{other}', allowed are ")


def test_nothing_is_loaded_for_names_that_are_right() -> None:
    code = "import sys; from yolov5_utils import patch; patch(); print(sys.modules.keys() & names)"
    names = {"difflib", "yolov5_utils.messages", "yolov5_utils.closing"}
    done = run(STOCK, "-c", f"names = {names}; {code}", YOLOV5_UTILS_CUDA="0")
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_every_variable_of_this_repository_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of builds and tests too: else a run with one would be told that there is none."""
    files = [ROOT / "setup.py", ROOT / "Makefile", *ROOT.glob("*.md")]
    files += [file for name in FOLDERS for file in (ROOT / name).rglob("*") if file.is_file()]
    own = Path(__file__)
    texts = (file.read_bytes() for file in files if file != own and file.suffix != ".pyc")
    named = {name.decode() for text in texts for name in re.findall(rb"YOLOV5_UTILS_[A-Z_]+", text)}
    assert "YOLOV5_UTILS_CUDA" in named
    told: list[str] = []
    monkeypatch.setattr("yolov5_utils.messages.say_once", told.append)
    for name in named:
        if not name.endswith("_"):
            monkeypatch.setenv(name, "")
    switches.name_misspelt()
    assert told == []
    assert "yolov5_utils.messages" in sys.modules
