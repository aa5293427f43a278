"""Forks: what a file with names of its own gets, and what is said of a file that is not known."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Loader, ours, record, replaceable, run
from synthetic import edited
from torch import nn

import yolov5_utils
from yolov5_utils import overlay
from yolov5_utils.ops import OPERATIONS

ADDED = edited("def profile(", "def shrink(model): ...\nclass Grown: ...\ndef profile(")
EDITED = ADDED.replace("(weights == 0).sum()", "(weights.abs() < 1e-6).sum()")
RENAMED = edited("def prune(model, amount=0.3):", "def prune_all(model, amount=0.3):")
WHY = "not known as a file of YOLOv5 4.0 or later, or of ultralytics: it defines no "
LACKS_PRUNE = f"{WHY}prune, as every YOLOv5 known here does"
UNKNOWN = f"utils.torch_utils runs as it is: {LACKS_PRUNE}"
# A script that is run as its users do, and that logs nothing.
SCRIPT = "from utils.torch_utils import ModelEMA\nprint('ran')\n"


def test_a_file_that_only_adds_names_has_its_known_callables_replaced(patched: Loader) -> None:
    module = patched(text=ADDED)
    assert record().replaced == replaceable()
    assert record().release == "YOLOv5 7.0 to main"
    assert record().left == {"Grown(), shrink()": "in no YOLOv5 that is known here"}
    assert not ours(module.shrink)
    before = OPERATIONS["ema"].counted()["C"]
    model = nn.Linear(2, 2)
    module.ModelEMA(model).update(model)
    assert OPERATIONS["ema"].counted()["C"] == before + 1
    assert module.sparsity(nn.BatchNorm2d(2)) == torch.tensor(0.5)


def test_the_line_names_what_was_left_and_why(
    patched: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "client"):
        patched(text=EDITED).LOGGER.info("first")
    names = ", ".join(name for name in replaceable() if name != "sparsity")
    assert caplog.records[0].getMessage().partition(": ")[2] == (
        f"YOLOv5 7.0 to main: {names} of utils.torch_utils replaced; left as it is: "
        "sparsity (differs from every release of YOLOv5 that is known here); "
        "Grown(), shrink() (in no YOLOv5 that is known here)"
    )


def test_a_file_that_is_not_known_is_a_line_in_its_log(
    patched: Loader, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    patched(text=RENAMED).LOGGER.warning("first")
    line, _ = caplog.records
    assert (line.name, line.levelno) == ("client", logging.WARNING)
    assert line.getMessage().endswith(UNKNOWN)
    assert capfd.readouterr().err == ""


def test_a_file_that_is_not_known_is_an_error_under_strict(
    patched: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOLOV5_UTILS_STRICT", "1")
    with pytest.raises(ImportError, match=f"utils.torch_utils: {LACKS_PRUNE}"):
        patched(text=RENAMED)
    monkeypatch.setenv("YOLOV5_UTILS_BACKEND", "torch")  # then nothing is wanted of it
    assert not ours(patched(text=RENAMED).sparsity)


def test_copies_in_other_packages_are_spoken_of_where_they_have_an_ema(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    write(RENAMED, package="vendored.utils")
    overlay.install()
    importlib.import_module("vendored.utils.torch_utils").LOGGER.warning("first")
    line, _ = caplog.records
    assert "vendored.utils.torch_utils runs as it is" in line.getMessage()


ROUTES = {
    "launcher": (("-m", "yolov5_utils", "train.py"), {}),
    "auto": (("-c", f"import yolov5_utils.auto\n{SCRIPT}"), {}),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("log", [True, False])
def test_a_client_that_logs_nothing_has_the_line_at_the_end(
    write: Callable[..., Path], route: str, log: bool
) -> None:
    """One line on stderr, at once where there is no log; and the client's own run is untouched."""
    arguments, environment = ROUTES[route]
    text = RENAMED if log else "class ModelEMA: ...\n"
    folder = write(text).parents[1]
    (folder / "train.py").write_text(SCRIPT)
    done = run(*arguments, folder=folder, **environment)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"yolov5_utils: utils.torch_utils runs as it is: {WHY}")
    assert run(*arguments, folder=folder, RANK="1").stderr == ""
    strict = run(*arguments, folder=folder, YOLOV5_UTILS_STRICT="1")
    assert strict.returncode == 1
    assert "STRICT is on" in strict.stderr.splitlines()[-1]


def test_info_names_what_is_left(patched: Loader) -> None:
    patched(text=ADDED)
    assert "in no YOLOv5 that is known here" in repr(yolov5_utils.info())
