"""The import hook: what the client sees of it (nothing), and what it does not break."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.resources
import inspect
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from conftest import Loader, ours, record, replaceable, run
from synthetic import text_of

from yolov5_utils import operation, overlay
from yolov5_utils.overlay import patches


def test_names_imported_by_value_are_the_replaced_ones(write: Callable[..., Path]) -> None:
    file = write(text_of("7.0"))
    loss = file.with_name("loss.py")
    loss.write_text("from .torch_utils import ModelEMA, sparsity\n")
    overlay.install()
    module = importlib.import_module("utils.loss")
    assert ours(module.ModelEMA.update)
    assert ours(module.sparsity)
    assert record() == (
        "utils.torch_utils",
        str(file),
        "YOLOv5 7.0 to main",
        replaceable(),
        record().left,
    )


def test_module_of_the_pypi_package_is_watched_too(write: Callable[..., Path]) -> None:
    write(text_of("7.0"), package="yolov5.utils")
    overlay.install()
    assert ours(importlib.import_module("yolov5.utils.torch_utils").sparsity)


def test_both_modules_in_one_process(write: Callable[..., Path]) -> None:
    write(text_of("7.0"), package="yolov5.utils")
    write(text_of("5.0"))
    overlay.install()
    late = importlib.import_module("yolov5.utils.torch_utils")
    early = importlib.import_module("utils.torch_utils")
    assert ours(late.sparsity)
    assert ours(early.sparsity)
    assert [record.release for record in overlay.status()] == [
        "YOLOv5 7.0 to main",
        "YOLOv5 4.0 to 6.0",
    ]


def test_other_modules_are_not_looked_at(write: Callable[..., Path]) -> None:
    write(text_of("7.0"), package="helpers")
    overlay.install()
    module = importlib.import_module("helpers.torch_utils")
    del sys.modules["helpers.torch_utils"], sys.modules["helpers"]
    assert not ours(module.sparsity)
    assert overlay.status() == []


def test_replacements_look_like_the_originals(client: Loader) -> None:
    overlay.install()
    module = client()
    update, sparsity = module.ModelEMA.update, module.sparsity
    assert (update.__name__, update.__qualname__) == ("update", "ModelEMA.update")
    assert update.__module__ == sparsity.__module__ == "utils.torch_utils"
    assert update.__doc__ == "Move a little."
    assert sparsity.__doc__ == "How much of it is nothing."
    assert str(inspect.signature(update)) == "(self, model)"
    assert str(inspect.signature(sparsity)) == "(model)"
    assert module.ModelEMA.__doc__ == "Text that must stay."
    assert pickle.loads(pickle.dumps(sparsity)) is sparsity
    assert pickle.loads(pickle.dumps(module.ModelEMA)) is module.ModelEMA


def test_loader_and_source_stay_as_found(client: Loader, write: Callable[..., Path]) -> None:
    overlay.install()
    module = client()
    loader = module.__spec__.loader
    assert type(loader) is importlib.machinery.SourceFileLoader
    assert loader is module.__loader__
    assert "exec_module" not in vars(loader)
    assert inspect.getsource(module) == text_of("7.0")
    assert "old *= share" in inspect.getsource(module.ModelEMA.update)
    assert importlib.resources.files("utils").joinpath("torch_utils.py").is_file()
    pickle.dumps(loader)


def test_reload_is_replaced_again(client: Loader, write: Callable[..., Path]) -> None:
    overlay.install()
    module = client("7.0")
    before = module.ModelEMA
    write(text_of("5.0"))
    importlib.reload(module)
    assert module.ModelEMA is not before
    assert ours(module.ModelEMA.update)
    assert [record.release for record in overlay.status()] == ["YOLOv5 4.0 to 6.0"]


def test_installing_twice_changes_nothing(client: Loader) -> None:
    overlay.install()
    module = client()
    update, sparsity = module.ModelEMA.update, module.sparsity
    finders = list(sys.meta_path)
    overlay.install()
    assert sys.meta_path == finders
    assert module.ModelEMA.update is update
    assert module.sparsity is sparsity
    assert [record.replaced for record in overlay.status()] == [replaceable()]


def test_installing_late_patches_what_is_there(client: Loader) -> None:
    module = client()
    assert not ours(module.sparsity)
    overlay.install()
    assert ours(module.sparsity)
    assert ours(module.ModelEMA.update)


def test_uninstalling_gives_the_originals_back(client: Loader) -> None:
    module = client()
    originals = module.ModelEMA.update, module.sparsity
    overlay.install()
    assert overlay.installed()
    overlay.uninstall()
    assert not overlay.installed()
    assert (module.ModelEMA.update, module.sparsity) == originals
    assert overlay.status() == []


def test_error_of_the_client_passes_through(write: Callable[..., Path]) -> None:
    overlay.install()
    file = write("raise ZeroDivisionError('the client')\n")
    with pytest.raises(ZeroDivisionError, match="the client"):
        importlib.import_module("utils.torch_utils")
    assert overlay.status() == []
    file.write_text(text_of("7.0") + "# longer than before\n")
    assert ours(importlib.import_module("utils.torch_utils").sparsity)


def test_missing_module_stays_missing() -> None:
    overlay.install()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("utils.torch_utils")


def test_our_error_leaves_the_client_as_it_is(
    client: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(patches, "apply", broken)
    overlay.install()
    assert not ours(client().sparsity)
    assert record().left == {"module": "ZeroDivisionError('ours')"}


def test_strict_makes_our_error_an_import_error(
    client: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(patches, "apply")
    monkeypatch.setenv("YOLOV5_UTILS_STRICT", "1")
    overlay.install()
    with pytest.raises(ImportError, match="apply"):
        client()


@pytest.mark.parametrize("part", ["fingerprint", "patches", "announce"])
def test_a_package_of_which_parts_are_gone_breaks_no_import(
    client: Loader, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """As while pip replaces it."""
    monkeypatch.delitem(sys.modules, f"yolov5_utils.overlay.{part}", raising=False)
    monkeypatch.delattr(overlay, part, raising=False)
    overlay.install()
    with monkeypatch.context() as gone:
        gone.setitem(sys.modules, f"yolov5_utils.overlay.{part}", None)
        module = client()
    assert ours(module.sparsity) == (part == "announce")
    if part != "announce":
        assert f"yolov5_utils.overlay.{part}" in record().left["module"]


def test_copies_made_in_a_circle_are_replaced_too(write: Callable[..., Path]) -> None:
    """A module that the client imports, when it has all its functions, has them by value."""
    file = write(text_of("7.0") + "\n\nfrom utils import loss  # noqa\n")
    file.with_name("loss.py").write_text("from .torch_utils import ModelEMA, prune as shrink\n")
    overlay.install()
    module = importlib.import_module("utils.torch_utils")
    assert ours(module.loss.shrink)
    assert module.loss.shrink is module.prune


def test_stand_in_modules_are_not_touched() -> None:
    """Newer clients' tests put mocks into sys.modules."""
    mock = MagicMock()
    sys.modules["utils.torch_utils"] = mock
    overlay.install()
    assert importlib.import_module("utils.torch_utils") is mock
    assert overlay.status() == []


def test_client_in_a_zip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loader serves several modules; only the one is handed over."""
    with zipfile.ZipFile(tmp_path / "client.zip", "w") as archive:
        archive.writestr("utils/__init__.py", "")
        archive.writestr("utils/general.py", "loaded = True\n")
        archive.writestr("utils/torch_utils.py", text_of("7.0") + "\n\nfrom utils import general\n")
    monkeypatch.syspath_prepend(str(tmp_path / "client.zip"))
    overlay.install()
    module = importlib.import_module("utils.torch_utils")
    assert ours(module.sparsity)
    assert module.general.loaded
    assert [record.module for record in overlay.status()] == ["utils.torch_utils"]


class Searching(importlib.abc.MetaPathFinder):
    """Another hook, which searches through all finders, us included."""

    def __init__(self) -> None:
        self.busy = False

    def find_spec(self, name: str, path: object, target: object = None) -> object:
        if name != "utils.torch_utils" or self.busy:
            return None
        self.busy = True
        try:
            return importlib.util.find_spec(name)
        finally:
            self.busy = False


@pytest.mark.parametrize("first", [True, False])
def test_another_hook_that_searches_through_us(
    client: Loader, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    overlay.install()
    position = 0 if first else len(sys.meta_path)
    others = [*sys.meta_path[:position], Searching(), *sys.meta_path[position:]]
    monkeypatch.setattr(sys, "meta_path", others)
    assert ours(client().sparsity)


def test_loader_that_cannot_be_watched_is_noted(
    client: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slotted(importlib.abc.Loader):
        """A class, not an object, as the loaders of built-in modules are."""

        @staticmethod
        def create_module(spec: object) -> None: ...

        @staticmethod
        def exec_module(module: object) -> None:
            vars(module)["loaded"] = True  # type: ignore[arg-type]

    class Foreign(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, path: object, target: object = None) -> object:
            if name != "utils.torch_utils":
                return None
            return importlib.machinery.ModuleSpec(name, Slotted)  # type: ignore[arg-type]

    monkeypatch.setattr(sys, "meta_path", [Foreign(), *sys.meta_path])
    overlay.install()
    assert client().loaded
    assert "cannot be watched" in record().left["module"]


def test_under_strict_a_call_that_c_refuses_is_an_error(
    client: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay.install()
    module, image = client(), torch.rand(1, 3, 8, 8)
    monkeypatch.setattr(operation, "_STRICT", True)
    assert module.scale_img(image, 0.5).shape == (1, 3, 32, 32)
    with pytest.raises(RuntimeError, match="scale_img: C cannot run this call .*STRICT is on"):
        module.scale_img(image.double(), 0.5)


def test_backend_torch_leaves_the_client_as_it_is(
    client: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOLOV5_UTILS_BACKEND", "torch")
    overlay.install()
    assert not ours(client().sparsity)
    assert record().left == {"module": "YOLOV5_UTILS_BACKEND=torch"}


def test_unknown_value_of_a_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOV5_UTILS_STRICT", "yes")
    with pytest.raises(ValueError, match=r"YOLOV5_UTILS_STRICT='yes': allowed values are 0, 1"):
        overlay.install()


def test_installing_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from yolov5_utils.overlay import install\n"
        "install()\n"
        "import utils.general\n"
        "heavy = {'torch', 'numpy', 'yolov5_utils._native'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "general.py").write_text("")
    assert run("-c", code, folder=tmp_path).stderr == ""


BROKEN = """
import sys
sys.modules["yolov5_utils._C"] = None  # as where it was built for another interpreter
from yolov5_utils.overlay import install, status
install()
from utils import torch_utils
[record] = status()
print(record.replaced, record.left)
import torch
torch_utils.LOGGER.warning("first")
print(float(torch_utils.sparsity(torch.nn.BatchNorm2d(2))))
"""


def test_without_the_extension_the_client_runs_stock(write: Callable[..., Path]) -> None:
    folder = write(text_of("7.0")).parents[1]
    result = run("-c", BROKEN, folder=folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("() {'module': ")
    assert result.stdout.endswith("\n0.5\n")
    assert "Remedy: install the package" in result.stdout
    assert "Remedy: install the package" in result.stderr  # by its logger, without a handler


def test_without_the_extension_strict_is_an_error(write: Callable[..., Path]) -> None:
    folder = write(text_of("7.0")).parents[1]
    result = run("-c", BROKEN, folder=folder, YOLOV5_UTILS_STRICT="1")
    assert result.returncode == 1
    assert "ImportError: yolov5_utils: the C extension" in result.stderr
