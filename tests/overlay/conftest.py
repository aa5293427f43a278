"""Small clients that look like a release of YOLOv5 to the overlay, and a clean table for each."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from synthetic import PACKAGES, RELEASES, YOLOV5, known_forms, text_of

from yolov5_utils import overlay, switches
from yolov5_utils.overlay.fingerprint import examine
from yolov5_utils.overlay.known_callables import HOT
from yolov5_utils.overlay.replacements import RECORDS

ROOT = Path(__file__).parents[2]
Loader = Callable[..., ModuleType]
CLIENTS = ("utils", "yolov5", "ultralytics", "vendored")


def forget_clients() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in CLIENTS]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No overlay, no client and none of the switches before and after each test."""
    for name in ("RANK", *(switch.name for switch in switches.ALL)):
        monkeypatch.delenv(name, raising=False)
    for name, digest, form in known_forms():
        monkeypatch.setitem(HOT[name].forms, digest, form)
    overlay.uninstall()
    forget_clients()
    yield
    overlay.uninstall()
    forget_clients()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """write(text, package="utils"): put a client's torch_utils.py on the import path: the file."""

    def write_file(text: str, package: str = "utils") -> Path:
        file = tmp_path.joinpath(*package.split("."), "torch_utils.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in (file.parent, *file.parent.parents):
            if folder == tmp_path:
                break
            (folder / "__init__.py").write_text("")
        file.write_text(text)
        return file

    monkeypatch.syspath_prepend(str(tmp_path))
    return write_file


@pytest.fixture
def client(write: Callable[..., Path]) -> Loader:
    """client(release="7.0", text=None): the imported torch_utils of a synthetic client."""

    def load(release: str = "7.0", text: str | None = None) -> ModuleType:
        write(text or text_of(release), package=PACKAGES[release])
        return importlib.import_module(f"{PACKAGES[release]}.torch_utils")

    return load


@pytest.fixture
def patched(client: Loader) -> Loader:
    """patched(...): `client` under the overlay."""
    overlay.install()
    return client


@pytest.fixture
def stock() -> Loader:
    """stock(release): the same client's module under a name that no overlay looks at: an oracle."""

    def load(release: str) -> ModuleType:
        module = ModuleType("stock_client")
        exec(compile(text_of(release), "stock_client.py", "exec"), vars(module))
        return module

    return load


@pytest.fixture(params=RELEASES)
def pair(request: pytest.FixtureRequest, client: Loader, stock: Loader) -> tuple[Any, Any]:
    """A release's module with the overlay, and without."""
    overlay.install()
    return client(request.param), stock(request.param)


@pytest.fixture(params=YOLOV5)
def yolov5(request: pytest.FixtureRequest, client: Loader, stock: Loader) -> tuple[Any, Any]:
    """`pair`, of the releases that have sparsity and prune."""
    overlay.install()
    return client(request.param), stock(request.param)


def ours(function: object) -> bool:
    return hasattr(function, "__yolov5_utils__")


def record() -> overlay.Record:
    """What is said of the one client there is."""
    [found] = overlay.status()
    return found


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in a client's folder, with the checkout in reach and no switch but `environment`."""
    clean = {key: value for key, value in os.environ.items() if "YOLOV5_UTILS" not in key}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def replaceable(release: str = "7.0") -> tuple[str, ...]:
    """The names that the overlay replaces in a synthetic client: those that C has."""
    forms = examine(text_of(release)).forms
    return tuple(name for name in forms if RECORDS[HOT[name].operation].refusal() is None)
