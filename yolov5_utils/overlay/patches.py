"""Puts the replacements into a client's module and class, and takes them out of everywhere again.

Imported once a client's torch_utils has executed, so torch is loaded by then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from .. import _native  # first: it names the remedy where the extension is broken
from .fingerprint import Fingerprint
from .forms import HOT
from .replacements import replacement

_MARK = "__yolov5_utils__"  # on our replacements only: tells them from the client's functions


class _Replaced(NamedTuple):
    owner: Any  # the module or the class
    name: str
    original: Callable[..., Any]
    replacement: Callable[..., Any]


_done: list[_Replaced] = []


def apply(module: ModuleType, found: Fingerprint) -> tuple[str, ...]:
    """Replace what the fingerprint knows, on the client's own class and module.

    The names that are replaced now; what was replaced before stays as it is, and what C has not
    goes to the fingerprint's reasons. Other modules keep what they have imported: see `rebind`.
    """
    replaced = []
    for name, form in found.forms.items():
        reason = _native.refusal(HOT[name].operation)
        if reason is not None:
            found.left[name] = reason
            continue
        owner, attribute = _place(module, name)
        original = vars(owner)[attribute]
        if not is_ours(original):
            new = replacement(module, original, form)
            setattr(new, _MARK, True)
            setattr(owner, attribute, new)
            _done.append(_Replaced(owner, attribute, original, new))
        replaced.append(name)
    return tuple(replaced)


def rebind() -> None:
    """Give every module that imported an original by value the replacement instead."""
    _exchange({id(done.original): done.replacement for done in _done})


def revert_all() -> None:
    """Give the client's own functions back, to its modules, classes and all that hold copies."""
    for done in reversed(_done):
        if vars(done.owner).get(done.name) is done.replacement:
            setattr(done.owner, done.name, done.original)
    _exchange({id(done.replacement): done.original for done in _done})
    _done.clear()


def is_ours(function: Any) -> bool:
    """True for a function that `apply` put there."""
    return _MARK in getattr(function, "__dict__", {})


def _place(module: ModuleType, name: str) -> tuple[Any, str]:
    """The module or class that holds the callable, and its name there."""
    holder, _, attribute = name.rpartition(".")
    return (vars(module)[holder] if holder else module), attribute


def _exchange(new: Mapping[int, Callable[..., Any]]) -> None:
    """Replace, in the dicts of all modules, the objects with these ids."""
    for module in list(sys.modules.values()):
        if not isinstance(module, ModuleType):  # a stand-in of some test
            continue
        names = vars(module)
        for name, value in list(names.items()):
            if id(value) in new:
                names[name] = new[id(value)]
