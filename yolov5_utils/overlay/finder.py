"""A meta-path finder that lets a module execute as always and then hands it to a callback.

Knows nothing of YOLOv5 and nothing of torch.
"""

from __future__ import annotations

import importlib.machinery
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

# A module's dict, got without its own code: a lazy module would execute at the first look.
names_of: Callable[[ModuleType], dict[str, Any]] = vars(ModuleType)["__dict__"].__get__


class Finder:
    """Calls `executed(module)` when a module with a `wanted` name has executed, before import ends.

    The module is found by the other finders and keeps their spec and their loader, the very
    objects: only `exec_module` of this one loader object is shadowed until it has run. An error of
    `executed` is told to `noted(name, reason)` and swallowed, unless it is an ImportError, which
    `executed` raises for nothing else than to make the import fail.
    """

    def __init__(
        self,
        wanted: Callable[[str], bool],
        executed: Callable[[ModuleType], None],
        noted: Callable[[str, str], None],
    ) -> None:
        self._wanted = wanted
        self._executed = executed
        self._noted = noted
        self._searching = threading.local()  # other hooks may search through us while we search
        self._installed: object | None = None  # anew each time

    @property
    def installed(self) -> bool:
        """True while it is on the import path."""
        return self in sys.meta_path

    def install(self) -> None:
        """Go to the front of the import path, unless it is there."""
        if not self.installed:
            sys.meta_path.insert(0, self)
            self._installed = object()

    def uninstall(self) -> None:
        """Leave the import path. What is being imported is not handed over either."""
        if self.installed:
            sys.meta_path.remove(self)
        self._installed = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec that the other finders give for a name we watch, None for every other name."""
        if not self._wanted(fullname) or getattr(self._searching, "on", False):
            return None
        self._searching.on = True
        try:
            spec = self._spec_of_others(fullname, path, target)
        finally:
            self._searching.on = False
        if spec is not None:
            try:
                self._watch(spec)
            except Exception as error:
                self._noted(fullname, f"its loader cannot be watched: {error!r}")
        return spec

    def _spec_of_others(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> importlib.machinery.ModuleSpec | None:
        for finder in list(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            if finder is self or find_spec is None:
                continue
            spec: importlib.machinery.ModuleSpec | None = find_spec(fullname, path, target)
            if spec is not None:
                return spec
        return None

    def _watch(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Shadow `exec_module` on the loader object, whose type and identity stay as found."""
        loader: Any = spec.loader
        if loader is None or isinstance(loader, type) or not hasattr(loader, "exec_module"):
            raise TypeError(f"loader {loader!r} has no exec_module of its own")
        original = loader.exec_module
        name, installed = spec.name, self._installed

        def exec_module(module: ModuleType) -> None:
            if module.__name__ != name:  # a zip file's loader serves all its modules
                original(module)
                return
            vars(loader).pop("exec_module", None)
            original(module)
            if installed is not None and installed is self._installed:
                self._hand_over(module)

        loader.exec_module = exec_module

    def _hand_over(self, module: ModuleType) -> None:
        # A module may replace itself in sys.modules while it executes: the client uses that one.
        current = sys.modules.get(module.__name__, module)
        try:
            self._executed(current)
        except ImportError:
            raise
        except Exception as error:
            self._noted(module.__name__, f"it could not be patched: {error!r}")
