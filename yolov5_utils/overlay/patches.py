"""Puts the replacements into a client's module and class, and takes them out of everywhere again.

Imported once a client's torch_utils has executed, so torch is loaded by then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from .. import _native  # first: it names the remedy where the extension is broken
from .finder import names_of
from .fingerprint import Fingerprint
from .forms import HOT
from .ledger import ENTRIES, Entry, original_of
from .replacements import replacement

_MARK = "__yolov5_utils__"  # for whoever looks at a function; the overlay asks the ledger


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
        holder, _, attribute = name.rpartition(".")
        owner: Any = vars(module)[holder] if holder else module
        original = vars(owner)[attribute]
        if original_of(original) is original:  # not one of ours already
            new = replacement(module, original, form)
            setattr(new, _MARK, True)
            setattr(owner, attribute, new)
            ENTRIES.append(Entry(module.__name__, name, form, owner, original, new))
        replaced.append(name)
    return tuple(replaced)


def rebind(module: str) -> None:
    """Give all that imported this module's originals by value the replacements instead."""
    _exchange({id(e.original): e.replacement for e in ENTRIES if e.module == module})


def revert_all() -> None:
    """Give the client's own functions back, to its modules, classes and all that hold copies."""
    for entry in reversed(ENTRIES):
        if vars(entry.owner).get(entry.attribute) is entry.replacement:
            setattr(entry.owner, entry.attribute, entry.original)
    _exchange({id(entry.replacement): entry.original for entry in ENTRIES})
    ENTRIES.clear()


def _exchange(new: Mapping[int, Callable[..., Any]]) -> None:
    """Replace, in the dicts of all modules, the objects with these ids."""
    for module in list(sys.modules.values()):
        if not issubclass(type(module), ModuleType):  # a stand-in of some test
            continue
        names = names_of(module)
        if not new.keys().isdisjoint(map(id, list(names.values()))):  # few modules hold any
            for name, value in list(names.items()):
                if id(value) in new:
                    names[name] = new[id(value)]
