"""What is replaced in this process, and by what. Must not import torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .forms import Form


class Entry(NamedTuple):
    """One callable of a client that was replaced."""

    module: str  # the client's
    name: str  # as in forms.HOT
    form: Form
    owner: Any  # the module or the class that holds it
    original: Callable[..., Any]
    replacement: Callable[..., Any]

    @property
    def attribute(self) -> str:
        """Its name in the dict of the owner."""
        return self.name.rpartition(".")[2]


ENTRIES: list[Entry] = []


def original_of(function: Any) -> Any:
    """The client's callable that one of our replacements stands for; any other object itself.

    By identity: functools.wraps gives a user's wrapper around ours all that ours has.
    """
    return next((e.original for e in ENTRIES if e.replacement is function), function)
