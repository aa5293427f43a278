"""What each hot path's original calls in torch, and whether that is still torch's own.

Whoever replaced one of these (to count, to export, to test) is to see the original's calls: there
the hot paths run as torch operations, in the package's functions and under the overlay. Must not
know the C extension.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import reduce
from operator import attrgetter
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import torch
import torch.nn.functional

from . import probe

# What the originals know by these global names: modules, and of Python's library.
MODULES = {
    "F": torch.nn.functional,
    "Path": Path,
    "deepcopy": deepcopy,
    "math": math,
    "nn": torch.nn,
    "time": time,
    "torch": torch,
}


class _Names(NamedTuple):
    """Names of one owner, as they were when they were first looked at."""

    owner: str
    names: tuple[str, ...]
    look: Callable[[Any], Any]
    place: Any
    found: Any


class Originals:
    """What the original of a hot path calls in torch, or what these call in turn."""

    def __init__(self, *names: tuple[str, str], imports: str | None = None) -> None:
        """Each of `names` is an owner in torch, "nn.Module", and names there, between spaces.

        They are looked at now, before anybody can replace them; where the original imports a module
        of torch when it is called, `imports`, when they are first asked for.
        """
        self.names = names
        self._imports = imports
        self._table: tuple[_Names, ...] | None = None if imports else tuple(_table(names))

    def replaced(self) -> str | None:
        """Why the original has to run: which of them is no longer torch's own; or None.

        Also while torch.compile reads, which is to read the original.
        """
        if probe.is_compiling():
            return "inside torch.compile"
        for entry in self._table or self._made():
            _, _, look, place, found = entry  # in less time than by name
            try:
                if look(place) == found:
                    continue
            except AttributeError:
                if all(hasattr(place, name) for name in entry.names):
                    raise  # none is missing: a signal handler has raised it
            if any(value is _NOT_TORCHS for value in _values(entry)):
                self._table = None  # not torch's at the first look, but perhaps at the next
            return _reason(entry)
        return None

    def _made(self) -> tuple[_Names, ...]:
        """The table as torch is now."""
        if self._table is None:
            if self._imports:
                importlib.import_module(self._imports)
            self._table = tuple(_table(self.names))
        return self._table


def _reason(entry: _Names) -> str:
    """The sentence for an entry of which something differs."""
    for name, own in zip(entry.names, _values(entry), strict=True):
        if getattr(entry.place, name, _NOT_TORCHS) != own:
            return f"{'.'.join(filter(None, ('torch', entry.owner, name)))} was replaced"
    return f"torch.{entry.owner} was replaced"


def _values(entry: _Names) -> tuple[Any, ...]:
    """What was found under each name."""
    return entry.found if len(entry.names) > 1 else (entry.found,)


# In place of what was not torch's own at the first look: equal to nothing else.
_NOT_TORCHS = object()


def _is_torchs(value: Any, name: str) -> bool:
    """True for what torch has under this name, False for what somebody put around or in place."""
    value = getattr(value, "__func__", value)  # of a class method, which is made anew at each look
    if isinstance(value, FunctionType):
        place = value.__globals__.get("__name__", "")
        return value.__code__.co_name == name and place.partition(".")[0] == "torch"
    if isinstance(value, type):
        return value.__module__.partition(".")[0] == "torch" and value.__name__ == name
    return type(value) in _BUILT_IN and getattr(value, "__name__", name) == name


_BUILT_IN = (
    BuiltinFunctionType,
    type(dict.__init__),  # slot wrapper
    type(dict.get),  # method descriptor
    type(dict.fromkeys),
)


def _table(calls: tuple[tuple[str, str], ...]) -> Iterator[_Names]:
    """What is found of the names that this release of torch has."""
    for owner, text in calls:
        place = reduce(getattr, filter(None, owner.split(".")), torch)
        names = tuple(name for name in text.split() if hasattr(place, name))
        values = [getattr(place, name) for name in names]
        found = tuple(
            value if _is_torchs(value, name) else _NOT_TORCHS
            for name, value in zip(names, values, strict=True)
        )
        if names:
            yield _Names(owner, names, attrgetter(*names), place, found if found[1:] else found[0])
