"""What is replaced is what was executed, not what the disk says; and it stays the same object."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.machinery
import importlib.util
import io
import logging
import math
import pickle
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import Loader, ours, record, replaceable
from synthetic import RELEASES, text_of
from torch import nn

import yolov5_utils
from tests.support import in_threads, meanwhile
from yolov5_utils import overlay
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.overlay.fingerprint import NotRecognised, examine, identify

Write = Callable[..., Path]
HOT = ("scale_img", "sparsity", "prune", "fuse_conv_and_bn", "time_sync")


def padding_of(module: ModuleType) -> float:
    return float(module.scale_img(torch.rand(1, 3, 64, 64), 0.83)[0, 0, -1, -1])


def test_a_file_that_was_edited_imported_and_put_back(write: Write) -> None:
    text = text_of("7.0")
    write(text.replace("0.447", "0.5"))
    module = importlib.import_module("utils.torch_utils")
    write(text)
    yolov5_utils.patch()
    assert padding_of(module) == 0.5
    assert record().left["scale_img"] == "what was executed is not what the file says now"
    assert record().replaced == tuple(name for name in replaceable() if name != "scale_img")


def test_a_line_more_at_the_top_moves_all_functions(write: Write) -> None:
    write("# a line more\n" + text_of("7.0"))
    module = importlib.import_module("utils.torch_utils")
    write(text_of("7.0"))
    yolov5_utils.patch()
    assert not any(ours(getattr(module, name)) for name in HOT)


class Rewriting(importlib.machinery.SourceFileLoader):
    """As tools do that rewrite what is imported: another constant than the file has."""

    def source_to_code(self, data: Any, path: Any, **_: Any) -> Any:
        tree = ast.parse(data)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value == 0.447:
                node.value = 0.25
        return compile(tree, path, "exec", dont_inherit=True)


@pytest.mark.parametrize("late", [False, True])
def test_code_that_was_rewritten_while_it_was_imported(
    write: Write, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    file = write(text_of("7.0"))

    class Finder:
        @staticmethod
        def find_spec(name: str, path: Any, target: Any = None) -> Any:
            if name != "utils.torch_utils":
                return None
            loader = Rewriting(name, str(file))
            return importlib.util.spec_from_file_location(name, file, loader=loader)

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    if not late:
        yolov5_utils.patch()
    module = importlib.import_module("utils.torch_utils")
    yolov5_utils.patch()
    assert padding_of(module) == 0.25
    assert "scale_img" in record().left


SMOOTH = (
    "from functools import partial\nfrom torch.nn.functional import *\n"
    "from torch.nn import functional as F\npad = F.pad\n"
    "interpolate = partial(F.interpolate, antialias=True)\n"
)
EDITS = {
    "another module as F": ("import torch.nn.functional as F", "from . import smooth as F"),
    "another math": ("import math\n", "import cmath as math\nmath.ceil = int\nmath.exp = float\n"),
    "a builtin of its own": ("class ModelEMA:", "int = round\n\n\nclass ModelEMA:"),
    "defined twice": ("class ModelEMA:", "def scale_img(*a): return a\n\n\nclass ModelEMA:"),
    "another value at the end": ("class ModelEMA:", "scale_img = print\n\n\nclass ModelEMA:"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_outside_of_the_function(write: Write, edit: str) -> None:
    text = text_of("7.0")
    assert EDITS[edit][0] in text
    write(text.replace(*EDITS[edit], 1)).with_name("smooth.py").write_text(SMOOTH)
    try:
        overlay.install()
        module = importlib.import_module("utils.torch_utils")
        assert not ours(module.scale_img)
        assert "scale_img" not in record().replaced
    finally:
        importlib.reload(importlib.import_module("cmath"))


@pytest.mark.parametrize("name", ["F", "math", "int"])
def test_a_global_that_is_replaced_later(patched: Loader, stock: Loader, name: str) -> None:
    module, image = patched(), torch.rand(1, 3, 64, 64)
    before = OPERATIONS["scale_img"].calls["C"]
    seen = []

    class Other:
        def __call__(self, value: Any) -> int:
            seen.append(value)
            return int(value)

        def __getattr__(self, called: str) -> Any:
            seen.append(called)
            return getattr({"F": torch.nn.functional, "math": math}[name], called)

    setattr(module, name, Other())
    assert torch.equal(module.scale_img(image, 0.83), stock("7.0").scale_img(image, 0.83))
    assert seen
    assert OPERATIONS["scale_img"].calls["C"] == before


@pytest.mark.parametrize("head", ["\ufeff", "# -*- coding: latin-1 -*-\n", ""])
def test_files_are_read_as_python_reads_them(write: Write, head: str) -> None:
    text = head + text_of("7.0").replace("Text that must stay.", "Müß bleiben.")
    file = write("")
    encoding = "latin-1" if "latin" in head else "utf-8"
    file.write_bytes(text.encode(encoding))
    overlay.install()
    importlib.import_module("utils.torch_utils")
    assert record().replaced == replaceable()


def test_nothing_is_said_of_a_file_that_is_parsed() -> None:
    text = text_of("7.0") + '\n\nodd = "\\d" is 1\n'
    registry = dict(warnings.onceregistry), list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "scale_img" in examine(text).forms
    assert registry == (dict(warnings.onceregistry), list(warnings.filters))
    for nonsense in ("def", "\0", "(" * 5000):
        with pytest.raises(NotRecognised):
            examine(nonsense)


@pytest.mark.parametrize("release", RELEASES)
def test_functions_stay_the_objects_they_were(client: Loader, release: str) -> None:
    module = client(release)
    name = "scale_img"
    function, state = getattr(module, name), dict(vars(module))
    held = functools.partial(function, ratio=0.5)
    stored = pickle.dumps(held)
    code = function.__code__
    for _ in range(2):
        yolov5_utils.patch()
        assert getattr(module, name) is function
        assert function.__code__ is not code
        assert pickle.dumps(held) == stored
        assert (function.__code__.co_name, function.__code__.co_firstlineno) == (
            *(code.co_name, code.co_firstlineno),
        )
        yolov5_utils.unpatch()
        assert function.__code__ is code
        assert vars(module) == state


def test_a_monkeypatch_that_is_undone_after_unpatch(client: Loader) -> None:
    module = client()
    yolov5_utils.patch()
    held = module.scale_img
    module.scale_img = lambda *args: None
    yolov5_utils.unpatch()
    module.scale_img = held
    assert not ours(module.scale_img)
    yolov5_utils.patch()
    assert record().replaced == replaceable()


@pytest.mark.parametrize("again", [False, True])
def test_unpatch_while_a_client_is_imported(
    write: Write, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    begun, go_on, get_logger = threading.Event(), threading.Event(), logging.getLogger

    def slow(name: Any = None) -> logging.Logger:
        begun.set()
        go_on.wait(20)
        return get_logger(name)

    write(text_of("7.0"))
    yolov5_utils.patch()
    monkeypatch.setattr(logging, "getLogger", slow)
    thread = threading.Thread(target=importlib.import_module, args=("utils.torch_utils",))
    thread.start()
    assert begun.wait(20)
    yolov5_utils.unpatch()
    if again:
        yolov5_utils.patch()
        assert "call it again" in record().left["module"]
    go_on.set()
    thread.join()
    module = sys.modules["utils.torch_utils"]
    assert not ours(module.sparsity)
    yolov5_utils.patch()
    assert ours(module.sparsity)


def test_patch_and_unpatch_beside_threads_that_call(client: Loader, stock: Loader) -> None:
    module, image = client(), torch.rand(1, 3, 16, 16)
    expected = stock("7.0").scale_img(image, 0.83)
    raised: list[BaseException] = []

    def call() -> None:
        assert torch.equal(module.scale_img(image, 0.83), expected)

    def switch() -> None:
        try:
            for _ in range(60):
                yolov5_utils.patch()
                yolov5_utils.unpatch()
        except BaseException as error:
            raised.append(error)

    sys.setswitchinterval(1e-5)
    with meanwhile(call), meanwhile(call):
        in_threads(switch, switch)
    assert raised == []
    assert not ours(module.scale_img)


def saved(module: ModuleType) -> bytes:
    torch.manual_seed(0)
    pairs = [(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8).eval()) for _ in range(3)]
    with torch.no_grad():
        model = nn.Sequential(*(module.fuse_conv_and_bn(*pair) for pair in pairs))
    if hasattr(module, "prune"):
        module.prune(model, 0.3)
    average = module.ModelEMA(nn.Sequential(*pairs[0]))
    average.update(nn.Sequential(*pairs[1]))
    file = io.BytesIO()
    torch.save([model, average.ema], file)
    return file.getvalue()


@pytest.mark.parametrize("release", RELEASES)
def test_whole_models_are_saved_as_the_stock_ones(
    patched: Loader, stock: Loader, release: str
) -> None:
    """After fusing, pruning and averaging, byte for byte: a shared tuple would show."""
    assert saved(patched(release)) == saved(stock(release))


class Labelled(torch.Tensor):
    """Has no format of its own."""


@pytest.mark.parametrize("release", ["5.0", "6.1", "7.0"])
def test_what_prune_says_of_a_tensors_subclass(
    patched: Loader, stock: Loader, capsys: pytest.CaptureFixture[str], release: str
) -> None:
    results = []
    for module in (patched(release), stock(release)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3))
        scale = nn.Parameter(torch.rand(3).as_subclass(Labelled))
        model.register_parameter("scale", scale)
        try:
            module.prune(model)
            said = "nothing raised"
        except TypeError as error:
            said = str(error)
        results.append((said, capsys.readouterr().out, int((model[0].weight == 0).sum())))
    assert results[0] == results[1]


def test_a_computed_weight_is_computed_as_often(patched: Loader, stock: Loader) -> None:
    results = []
    for module in (patched(), stock("7.0")):
        torch.manual_seed(0)
        conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 16, 3))
        with torch.no_grad():
            fused = module.fuse_conv_and_bn(conv, nn.BatchNorm2d(16).eval())
        results.append(fused.weight)
    assert torch.equal(*results)


def test_a_module_whose_source_is_gone(write: Write) -> None:
    file = write(text_of("7.0"))
    module = importlib.import_module("utils.torch_utils")
    file.unlink()
    with pytest.raises(NotRecognised, match="its source cannot be read"):
        identify(module)
