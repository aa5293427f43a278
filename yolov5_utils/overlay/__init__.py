"""Speed for unmodified YOLOv5 and ultralytics: other code for the hot functions of their files.

`install()` puts a finder on the import path. The client's file executes as always; before its
import returns it is identified and, if it is one that is known, patched in place. Importing this
package, and installing, imports no torch: the client does that, when it always did.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterable
from types import ModuleType
from typing import Any, NamedTuple

from ..switches import BACKEND, OVERLAY, STRICT, check
from .finder import Finder, names_of

# The modules that are a client's wherever they come from. A copy inside another package is looked
# at too, but one that is no YOLO's is none of our business.
CLIENTS = (
    "utils.torch_utils",
    "yolov5.utils.torch_utils",
    "ultralytics.utils.torch_utils",
    "ultralytics.yolo.utils.torch_utils",
)


class Record(NamedTuple):
    """What happened to one client module: what was replaced, what was left, and why."""

    module: str
    file: str | None
    release: str | None  # of which client, None where it is not a client's file
    replaced: tuple[str, ...]
    left: dict[str, str]  # name (or "module" for all of it) -> why it was left as it is


_records: dict[str, Record] = {}
_lock = threading.RLock()  # held while functions are replaced and given back
_selected: frozenset[str] | None = None  # hot paths; None: all


def install(only: Iterable[str] | None = None) -> None:
    """Patch clients' torch_utils modules whenever they are imported, now also if they already are.

    With `only`, these hot paths and no others, in whatever was patched before too. Calling it again
    changes nothing. ValueError for an unknown name, or value of a YOLOV5_UTILS_* switch.
    """
    check()
    _install(None if only is None else hot_paths(only))


def _install(selection: frozenset[str] | None) -> None:
    with _lock:
        _install_alone(selection)


def _install_alone(selection: frozenset[str] | None) -> None:
    global _selected
    if selection != _selected:
        _give_back()
    _selected = selection
    _finder.install()
    present = [(name, module) for name, module in list(sys.modules.items()) if is_client(name)]
    for name, module in present:
        if not issubclass(type(module), ModuleType):  # a stand-in of some test
            continue
        if _being_imported(module):
            _noted(name, "it was being imported when patch() was called: call it again")
        else:
            _executed(module)


def uninstall(only: Iterable[str] | None = None) -> None:
    """Take the finder away and give the clients' functions their own code back.

    With `only`, these hot paths: the others stay replaced.
    """
    global _selected
    if only is not None:
        rest = (hot_paths(_names()) if _selected is None else _selected) - hot_paths(only)
        if rest:
            if installed():
                _install(rest)
            return
    with _lock:
        _finder.uninstall()
        _give_back()
        _selected = None


def _give_back() -> None:
    """Clients' functions run their own code, and nothing is known of any client."""
    if any(record.replaced for record in _records.values()):
        from . import patches

        patches.revert_all()
    if _records:
        from . import announce

        announce.forget()
    _records.clear()


def hot_paths(names: Iterable[str], argument: str = "only") -> frozenset[str]:
    """The hot paths of these names, their own ("ema") or a client's ("ModelEMA.update").

    ValueError for another name, TypeError for one name in place of several.
    """
    known = _names()
    if isinstance(names, str):
        raise TypeError(f"{argument}: got {names!r}, expected a list of names: [{names!r}]")
    names = tuple(names)
    for name in names:
        if name not in known:
            raise ValueError(f"{argument}: got {name!r}, allowed are {', '.join(known)}")
    return frozenset(known[name] for name in names)


def _names() -> dict[str, str]:
    """The hot path that each name stands for."""
    from .known_callables import HOT

    named = {name: hot.operation for name, hot in HOT.items()}
    return {**named, **{operation: operation for operation in named.values()}}


def replaces(name: str | None = None) -> bool:
    """True where what `install` promises holds, of one name or of any: in the clients imported so
    far, or in those to come if there are none yet."""
    wanted = None if name is None else hot_paths([name], "name")
    if not installed() or BACKEND.read() == "torch":
        return False
    if _selected is not None and not (_selected if wanted is None else wanted & _selected):
        return False
    met = [record for record in _records.values() if record.release or record.module in CLIENTS]
    replaced = hot_paths(name for record in met for name in record.replaced)
    return not met or bool(replaced if wanted is None else wanted & replaced)


def at_start() -> None:
    """What the installed .pth file calls where YOLOV5_UTILS_OVERLAY is not unset, empty or 0.

    Runs in every process of the environment, pip's too, so a wrong value is one line on stderr; and
    twice where that is a virtual environment, whose files `site` reads again.
    """
    try:
        if OVERLAY.on():
            install()
    except ValueError as error:
        from ..messages import say_once

        say_once(f"{error}; nothing is replaced")


def installed() -> bool:
    """True while the finder is in place."""
    return _finder.installed


def status() -> list[Record]:
    """One record for each client module met so far, in the order of their first import."""
    return list(_records.values())


def is_client(name: str) -> bool:
    """True for the full name of a module that may be a client's torch_utils."""
    return name in CLIENTS or name.endswith(".utils.torch_utils")


def _being_imported(module: ModuleType) -> bool:
    """True for a module that is not complete yet, and that a finder of today never saw."""
    spec = names_of(module).get("__spec__")
    return bool(getattr(spec, "_initializing", False))


def _executed(module: ModuleType) -> None:
    """Patch a client module that has executed.

    Whatever goes wrong, or a file that is not known, leaves the module as it is, with the reason on
    record; under YOLOV5_UTILS_STRICT=1 it is raised as an ImportError.
    """
    try:
        record = _patched(module)
        problem = "module" in record.left and _is_a_yolos(record, module)
    except Exception as error:  # a broken extension, whose text names the remedy, or our own fault
        reason = str(error) if isinstance(error, ImportError) else repr(error)
        if STRICT.on():
            raise ImportError(reason) from error
        record, problem = _left(module, reason), True
    if problem and record.release is None and STRICT.on() and BACKEND.read() != "torch":
        raise ImportError(f"{record.module}: {record.left['module']}, and STRICT is on")
    _records[record.module] = record
    if record.release is not None or problem:
        with contextlib.suppress(Exception):  # a logger that fails is no reason to fail
            _announce(module, record)


def _is_a_yolos(record: Record, module: ModuleType) -> bool:
    """True but for another project's file of that name."""
    return record.module in CLIENTS or "ModelEMA" in names_of(module)


def _patched(module: ModuleType) -> Record:
    from .fingerprint import NotRecognised, identify

    try:
        found = identify(module)
    except NotRecognised as why:
        return _left(module, str(why))
    if BACKEND.read() == "torch":
        return _left(module, f"{BACKEND.name}=torch", found.release)
    from . import patches

    replaced = patches.apply(module, found, _selected)
    record = _left(module, "", found.release)
    return record._replace(replaced=replaced, left=dict(found.left))


def _left(module: ModuleType, reason: str, release: str | None = None) -> Record:
    """The record of a module of which nothing is replaced."""
    names = names_of(module)
    return Record(names["__name__"], names.get("__file__"), release, (), {"module": reason})


def _noted(name: str, reason: str) -> None:
    """Remember that a client module could not even be watched, and why."""
    _records[name] = Record(name, None, None, (), {"module": reason})


def _announce(module: ModuleType, record: Record) -> None:
    """One line through the client's own logger, or on stderr where it has none and nothing works.

    YOLOv5 imports ultralytics, before or after its own module: each of the two has its line.
    """
    from .announce import once

    left = record.left.get("module") or _words(record.left)
    client = "ultralytics" if record.module.startswith("ultralytics.") else "YOLOv5"
    logger: Any = getattr(module, "LOGGER", None) or getattr(module, "logger", None)
    if record.replaced:
        text = f"{record.release}: {', '.join(record.replaced)} of {record.module} replaced"
        once(client, logger, "info", f"{text}; left as it is: {left}" if left else text)
    elif left:
        once(record.module, logger, "warning", f"{record.module} runs as it is: {left}")


def _words(left: dict[str, str]) -> str:
    """What was left and why, but for what was to be, or comes from another client's file."""
    from .replaced import LEFT_OUT

    expected = {LEFT_OUT, *(f"is {client}'s" for client in CLIENTS)}
    by_reason: dict[str, list[str]] = {}
    for name, reason in left.items():
        if reason not in expected:
            by_reason.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in by_reason.items())


def _imported(module: ModuleType) -> None:
    """Patch a client module at the end of its import, unless that began before unpatch()."""
    with _lock:
        if installed():
            _executed(module)


_finder = Finder(is_client, _imported, _noted)
