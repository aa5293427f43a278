"""What is replaced in this process, and by what. Must not import torch."""

from __future__ import annotations

from types import CodeType, FunctionType
from typing import Any, NamedTuple

from .known_callables import Form

# An attribute of a client's functions that are replaced, for whoever looks at one.
MARK = "__yolov5_utils__"

# Why a function is left that nobody asked to have replaced.
LEFT_OUT = "patch(only=…) leaves it out"


class Entry(NamedTuple):
    """One function of a client that runs a replacement: the same object, with another code."""

    module: str  # the full name of the client's
    name: str  # as in forms.HOT
    form: Form
    function: Any  # a FunctionType, which mypy would take for a method of the entry
    original: CodeType
    ours: CodeType


ENTRIES: list[Entry] = []


def code_of(function: FunctionType) -> CodeType:
    """The client's code of a function, replaced or not."""
    return next((e.original for e in ENTRIES if e.function is function), function.__code__)
