"""Every way to switch the overlay on: before and after the client, here and in other processes."""

from __future__ import annotations

import functools
import gc
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from conftest import Loader, ours, record, replaceable, run
from synthetic import text_of

import yolov5_utils
from tests.support import takes
from yolov5_utils import overlay
from yolov5_utils.overlay.known_callables import HOT

ROOT = Path(__file__).parents[2]
# Imports by value at the top, by value in a function, by attribute, and through another module.
USERS = {
    "utils/loss.py": "from .torch_utils import ModelEMA, sparsity, scale_img as resize\n",
    "train.py": "from utils.torch_utils import *\nfrom utils import torch_utils, loss\n",
    "late.py": "def late():\n    from utils.torch_utils import prune\n    return prune\n",
}


@pytest.fixture
def users(write: Callable[..., Path]) -> Callable[[], dict[str, ModuleType]]:
    """users(): import the client and the modules that use it."""
    folder = write(text_of("7.0")).parents[1]
    for name, text in USERS.items():
        (folder / name).write_text(text)

    def load() -> dict[str, ModuleType]:
        names = ("utils.torch_utils", "utils.loss", "train", "late")
        return {name: importlib.import_module(name) for name in names}

    yield load
    for name in ("train", "late"):
        sys.modules.pop(name, None)


def held(modules: dict[str, ModuleType]) -> dict[str, Any]:
    """Every function of the client that a user can get at, by where it is found."""
    found: dict[str, Any] = {
        "update": modules["utils.torch_utils"].ModelEMA.update,
        "late": modules["late"].late(),
        "attribute": modules["train"].torch_utils.scale_img,
    }
    for name in ("utils.torch_utils", "utils.loss", "train"):
        for key, value in vars(modules[name]).items():
            if getattr(value, "__module__", "") == "utils.torch_utils" and callable(value):
                found[f"{name}.{key}"] = value
    return found


@pytest.mark.parametrize("early", [True, False])
def test_patched_before_and_after_the_import(users: Callable[..., Any], early: bool) -> None:
    if early:
        yolov5_utils.patch()
    modules = users()
    if not early:
        assert not any(map(ours, held(modules).values()))
        yolov5_utils.patch()
    for where in (
        *("update", "late", "attribute", "utils.loss.resize", "utils.loss.sparsity"),
        *("train.sparsity", "train.prune", "train.scale_img", "utils.torch_utils.prune"),
    ):
        assert ours(held(modules)[where]), where
    assert not ours(held(modules)["train.copy_attr"])


@pytest.mark.parametrize("early", [True, False])
def test_unpatch_leaves_no_trace(users: Callable[..., Any], early: bool) -> None:
    stock = None
    if early:
        yolov5_utils.patch()
        modules = users()
    else:
        modules = users()
        stock = held(modules)
        yolov5_utils.patch()
    yolov5_utils.unpatch()
    after = held(modules)
    assert stock is None or after == stock
    assert not any(map(ours, after.values()))
    assert not overlay.installed()
    assert overlay.status() == []
    gc.collect()
    left = [found for found in gc.get_objects() if type(found) is type(ours) and ours(found)]
    assert left == []


def test_patch_and_unpatch_again_and_again(users: Callable[..., Any]) -> None:
    modules = users()
    stock = held(modules)
    for _ in range(3):
        yolov5_utils.patch()
        patched = held(modules)
        yolov5_utils.patch()
        assert held(modules) == patched
        assert record().replaced == replaceable()
        yolov5_utils.unpatch()
        yolov5_utils.unpatch()
        assert held(modules) == stock


def test_copies_made_while_patched_are_restored_too(
    users: Callable[..., Any], tmp_path: Path
) -> None:
    """A module imported under the overlay holds our function; a client reloaded, two of them."""
    yolov5_utils.patch()
    modules = users()
    importlib.reload(modules["utils.torch_utils"])
    assert modules["train"].prune is not modules["utils.torch_utils"].prune
    yolov5_utils.unpatch()
    assert not any(map(ours, held(modules).values()))


def test_stand_ins_among_the_modules_are_not_touched(
    users: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    users()
    stand_in = MagicMock()
    monkeypatch.setitem(sys.modules, "utils.stand_in", stand_in)
    monkeypatch.setitem(sys.modules, "utils.nothing", None)
    monkeypatch.setitem(sys.modules, "vendored.utils.torch_utils", stand_in)
    yolov5_utils.patch()
    yolov5_utils.unpatch()
    assert stand_in.mock_calls == []


def test_a_module_that_is_still_being_imported_is_left_to_the_finder(
    write: Callable[..., Path],
) -> None:
    """`import yolov5_utils.auto` somewhere below the client's own import."""
    write(text_of("7.0") + "\n\nimport yolov5_utils.auto  # noqa\nbefore = sparsity\n")
    sys.modules.pop("yolov5_utils.auto", None)
    module = importlib.import_module("utils.torch_utils")
    assert not ours(module.before)
    assert not ours(module.sparsity)  # it was found before the finder was there
    assert record().left == {
        "module": "it was being imported when patch() was called: call it again"
    }
    yolov5_utils.patch()
    assert record().replaced == replaceable()
    assert ours(module.sparsity)
    assert ours(module.before)


Wrapper = Callable[..., Any]


def traced(function: Any) -> Wrapper:
    """As a profiler wraps what it looks at."""

    @functools.wraps(function)
    def wrapper(*arguments: Any, **keywords: Any) -> Any:
        return function(*arguments, **keywords)

    return wrapper


@pytest.mark.parametrize("release", ["7.0", "6.2"])
@pytest.mark.parametrize("name", ["scale_img", "ModelEMA.update"])
@pytest.mark.parametrize("wrap", [traced, torch.no_grad()])
def test_a_users_wrapper_stays(client: Loader, release: str, name: str, wrap: Wrapper) -> None:
    """And calls what it has wrapped, which then runs in C."""
    module = client(release)
    holder, _, attribute = name.rpartition(".")
    owner = getattr(module, holder) if holder else module
    wrapped = wrap(vars(owner)[attribute])
    setattr(owner, attribute, wrapped)
    yolov5_utils.patch()
    assert vars(owner)[attribute] is wrapped
    assert ours(module.sparsity)
    assert record().replaced == replaceable(release)
    with takes(HOT[name].operation):
        if holder:
            average = module.ModelEMA(torch.nn.Linear(2, 2))
            average.update(torch.nn.Linear(2, 2))
        else:
            wrapped(torch.rand(1, 3, 64, 64), 0.83)
    yolov5_utils.unpatch()
    assert vars(owner)[attribute] is wrapped
    assert not ours(wrapped.__wrapped__)


def test_a_users_wrapper_around_ours_stays(client: Loader) -> None:
    yolov5_utils.patch()
    module = client()
    module.scale_img = wrapped = traced(module.scale_img)
    yolov5_utils.patch()
    assert module.scale_img is wrapped
    assert record().replaced == replaceable()
    yolov5_utils.unpatch()
    assert module.scale_img is wrapped
    assert not ours(wrapped.__wrapped__)


def test_what_is_no_function_of_the_file_is_left(client: Loader) -> None:
    """Whatever stands there, it is the user's: a partial, an object that can be called."""
    module = client()
    module.scale_img = stand_in = functools.partial(module.scale_img, gs=64)
    yolov5_utils.patch()
    assert module.scale_img is stand_in
    assert record().left["scale_img"] == "is not the function of this module's source"
    assert not ours(stand_in.func)


@pytest.mark.parametrize("broken", [False, True])
def test_lazy_modules_stay_asleep(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    text = "raise ZeroDivisionError('looked at')\n" if broken else "loaded = True\n"
    write(text_of("7.0")).with_name("lazy.py").write_text(text)
    importlib.import_module("utils.torch_utils")
    spec = importlib.util.find_spec("utils.lazy")
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "utils.lazy", lazy)
    spec.loader.exec_module(lazy)
    yolov5_utils.patch()
    yolov5_utils.unpatch()
    assert "loaded" not in object.__getattribute__(lazy, "__dict__")


def test_vendored_copies_are_patched_too_and_others_are_not_spoken_of(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    write(text_of("6.1"), package="vendored.detector.utils")
    write("import logging\nLOGGER = logging.getLogger('other')\n", package="vendored.other.utils")
    yolov5_utils.patch()
    with caplog.at_level("INFO"):
        importlib.import_module("vendored.other.utils.torch_utils")
        assert caplog.records == []
        copy = importlib.import_module("vendored.detector.utils.torch_utils")
        copy.LOGGER.info("first")
    assert ours(copy.prune)
    assert [record.replaced for record in overlay.status()] == [(), replaceable("6.1")]
    assert len(caplog.records) == 2


AUTO = """
import sys
import yolov5_utils.auto
heavy = {"torch", "numpy", "ast", "inspect", "yolov5_utils._C"} & set(sys.modules)
assert not heavy, heavy
from utils import torch_utils
print(hasattr(torch_utils.sparsity, "__yolov5_utils__"))
"""


def test_auto_brings_in_nothing_heavy(write: Callable[..., Path]) -> None:
    folder = write(text_of("7.0")).parents[1]
    result = run("-c", AUTO, folder=folder)
    assert result.stdout == "True\n", result.stderr


def test_looking_for_auto_does_not_patch() -> None:
    vars(yolov5_utils).pop("auto", None)
    sys.modules.pop("yolov5_utils.auto", None)
    assert not hasattr(yolov5_utils, "auto")
    assert not overlay.installed()
    exec("from yolov5_utils import auto")
    assert overlay.installed()


def test_after_unpatch_it_is_patch_that_patches(client: Loader) -> None:
    module = client()
    sys.modules.pop("yolov5_utils.auto", None)
    importlib.import_module("yolov5_utils.auto")
    assert ours(module.sparsity)
    yolov5_utils.unpatch()
    importlib.import_module("yolov5_utils.auto")
    assert not ours(module.sparsity)
    yolov5_utils.patch()
    assert ours(module.sparsity)


RANKS = """
import os, sys
import torch.distributed as dist
from utils.torch_utils import ModelEMA, torch
dist.init_process_group("gloo")
model = torch.nn.Linear(3, 4)
ModelEMA(model).update(model)
from yolov5_utils.ops import OPERATIONS
calls = OPERATIONS["ema"].calls["C"]
print(f"rank {dist.get_rank()} of {dist.get_world_size()}: {calls}, {sys.argv}", flush=True)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.parametrize("route", [("train.py",), ("-m", "train")])
@pytest.mark.slow
def test_torchrun_starts_patched_ranks(write: Callable[..., Path], route: tuple[str, ...]) -> None:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    folder = write(text_of("7.0")).parents[1]
    (folder / "train.py").write_text(RANKS)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    arguments = (*launcher, "-m", "yolov5_utils", *route, "--epochs", "3")
    result = run(*arguments, folder=folder, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    for rank in (0, 1):
        assert f"rank {rank} of 2: 1, [" in result.stdout
    assert result.stdout.count("'--epochs', '3']") == 2
