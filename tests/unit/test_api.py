"""The public names: listed, documented with examples that run, and as docs/api.md says."""

from __future__ import annotations

import builtins
import doctest
import logging
import pydoc
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

import yolov5_utils
from yolov5_utils import distributed, probe, torch_utils
from yolov5_utils.commands.info import info
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.public import NAMES, SECTIONS

from .command_line import STOCK, run

ROOT = Path(__file__).parents[2]
DOCUMENTED = [name for name in NAMES if name != "logger"]
DOWNLOADS = {"load_classifier", "smart_hub_load"}
NEEDS_GROUP = {"smart_DDP"}


def test_dir_lists_the_names_without_importing_torch() -> None:
    code = "import sys, yolov5_utils as y; print(*dir(y)); print('torch' in sys.modules)"
    listed, loaded = run(STOCK, "-c", code).stdout.splitlines()
    shown = {name for name in listed.split() if not name.startswith("_")}
    assert shown == {*NAMES, "torch_utils"}
    assert "__version__" in listed.split()
    assert loaded == "False"


def test_importing_all_takes_the_names() -> None:
    """And help() shows them."""
    found: dict[str, Any] = {}
    exec("from yolov5_utils import *", found)
    assert set(found) - {"__builtins__"} == set(NAMES)
    shown = pydoc.render_doc(yolov5_utils, renderer=pydoc.plaintext)
    assert "\n    prune(model: " in shown


def test_the_names_are_all_there_are() -> None:
    assert len(set(NAMES)) == len(NAMES)
    own = {"ShardedEMA", "fuse_model", *SECTIONS["What runs where"]}
    own |= {"patch", "unpatch", "is_patched"}
    assert set(NAMES) == {*torch_utils.__all__, *own}
    assert {*distributed.__all__} - {"launched_as"} <= set(NAMES)
    public = {name.split(".")[0] for path in OPERATIONS.values() for name in path.public_names}
    assert public <= set(NAMES)
    for name in NAMES:
        assert getattr(yolov5_utils, name) is not None


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the examples begin with; what they change is put back."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", cudnn.benchmark)
    monkeypatch.setattr(cudnn, "deterministic", cudnn.deterministic)
    names = {name: getattr(yolov5_utils, name) for name in NAMES}
    with torch.random.fork_rng(devices=[]):
        yield {**names, "torch": torch, "nn": torch.nn, "yolov5_utils": yolov5_utils}
    yolov5_utils.unpatch()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples(name: str, surroundings: dict[str, Any]) -> None:
    if name == "ShardedEMA" and probe.release() < (2, 7):
        pytest.skip("this torch has no sharded tensors")
    finder = doctest.DocTestFinder(recurse=False)
    [test] = finder.find(getattr(yolov5_utils, name), name, module=builtins, globs=surroundings)
    assert test.examples, f"{name} has no example"
    left_out = all(doctest.SKIP in example.options for example in test.examples)
    assert left_out == (name in DOWNLOADS | NEEDS_GROUP)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test, out=said.append).failed == 0, "".join(said)


def test_the_page_is_as_the_code_says() -> None:
    page = runpy.run_path(str(ROOT / "tools" / "api_page.py"))["page"]()
    written = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert written == page, "python tools/api_page.py writes it anew"


def test_records_are_read_as_they_are_printed() -> None:
    row = yolov5_utils.explain("sparsity")
    assert repr(row) == str(row) == f"sparsity: {row.way}: {row.why}"
    rows = yolov5_utils.explain()
    assert repr(rows).splitlines() == [repr(each) for each in rows]
    assert isinstance(rows, tuple)
    facts = yolov5_utils.info()
    assert repr(facts).startswith("package ")
    told = (info.__doc__ or "").partition("fields are")[2]
    assert all(re.search(rf"\b{name}\b", told) for name in facts._fields)
    assert facts.hot_paths["sparsity"].calls == yolov5_utils.calls()["sparsity"]
    assert isinstance(yolov5_utils.logger, logging.Logger)
    assert sys.modules["yolov5_utils"] is yolov5_utils


def cells(page: str) -> list[list[str]]:
    """The texts of an HTML table, which must be well-formed."""
    return [[cell.text or "" for cell in row] for row in ElementTree.fromstring(page)]


def test_notebooks_show_the_records_as_tables() -> None:
    for why in ("as usual", "<b> & 'c'"):
        row = yolov5_utils.explain("sparsity")._replace(why=why)
        assert cells(row._repr_html_()) == [[row.name, row.way, why]]
    rows = yolov5_utils.explain()
    assert cells(rows._repr_html_()) == [[row.name, row.way, row.why] for row in rows]
    facts = yolov5_utils.info()
    lines = [f"{name} {value}".split() for name, value in cells(facts._repr_html_())]
    assert lines == [line.split() for line in repr(facts).splitlines()]
