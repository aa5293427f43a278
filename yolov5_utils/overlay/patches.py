"""Gives a client's own functions another code, which calls the replacements, and back again.

The functions stay the objects they were, wherever somebody holds one: an import by value, a list of
transforms, a wrapper of the user's, a pickle. Imported once a client's torch_utils has executed, so
torch is loaded by then.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Collection, Iterator
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from .. import _replacements
from .finder import names_of
from .fingerprint import Fingerprint
from .known_callables import HOT
from .replaced import ENTRIES, LEFT_OUT, MARK, Entry, code_of
from .replacements import RECORDS, replacement  # which name the remedy of a broken extension

_numbers = itertools.count()


def apply(
    module: ModuleType, found: Fingerprint, selected: Collection[str] | None = None
) -> tuple[str, ...]:
    """Replace what the fingerprint knows, of these hot paths: the names that are replaced now.

    What was replaced before stays as it is, and what C has not goes to the fingerprint's reasons.
    """
    replaced = []
    names = names_of(module)
    for name, form in found.forms.items():
        operation = HOT[name].operation
        reason = RECORDS[operation].refusal()
        if selected is not None and operation not in selected:
            reason = LEFT_OUT
        if reason is not None:
            found.left[name] = reason
            continue
        function = found.functions[name]
        if code_of(function) is function.__code__:
            original = copy_of(function)
            number = next(_numbers)
            ours = _calling(original.__code__, number)
            _replacements[number] = replacement(names, name, original, form)
            ENTRIES.append(Entry(module.__name__, name, form, function, original.__code__, ours))
            function.__code__ = ours
            vars(function)[MARK] = True
        replaced.append(name)
    return tuple(replaced)


def revert_all() -> None:
    """Give the client's functions their own code back."""
    for entry in ENTRIES:
        if entry.function.__code__ is entry.ours:
            entry.function.__code__ = entry.original
        vars(entry.function).pop(MARK, None)
    ours = {id(entry.ours) for entry in ENTRIES}
    if not any(id(frame.f_code) in ours for frame in _frames()):
        _replacements.clear()  # else a call that some thread has begun would miss its own
    ENTRIES.clear()


def _frames() -> Iterator[FrameType]:
    """All frames of all threads."""
    for newest in sys._current_frames().values():
        frame: FrameType | None = newest
        while frame is not None:
            yield frame
            frame = frame.f_back


def copy_of(function: FunctionType) -> FunctionType:
    """The function as it is now, for whoever has to call the client's own."""
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _calling(code: CodeType, number: int) -> CodeType:
    """A code with the parameters and the place of `code` that calls the replacement.

    Found by an import, which adds no name to the client's; torch.compile reads no code that has a
    function among its constants.
    """
    parameters = ", ".join(code.co_varnames[: code.co_argcount])
    text = (
        f"def function({parameters}): "
        f"import yolov5_utils; return yolov5_utils._replacements[{number}]({parameters})"
    )
    scratch: dict[str, FunctionType] = {}
    exec(compile(text, code.co_filename, "exec"), scratch)
    known: dict[str, Any] = {"co_name": code.co_name, "co_firstlineno": code.co_firstlineno}
    if hasattr(code, "co_qualname"):  # Python 3.11 and later
        known["co_qualname"] = code.co_qualname
    return scratch["function"].__code__.replace(**known)
