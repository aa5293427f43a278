"""Speed for unmodified YOLOv5 and ultralytics: other code for the hot functions of their files.

`install()` puts a finder on the import path. The client's file executes as always; before its
import returns it is identified and, if it is one that is known, patched in place. Importing this
package, and installing, imports no torch: the client does that, when it always did.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from types import ModuleType
from typing import Any, NamedTuple

from .. import __version__
from ..switches import ALL as SWITCHES
from ..switches import BACKEND, OVERLAY, STRICT
from .finder import Finder, names_of

# The modules of which the log says that they could not be patched. A copy inside another package
# is looked at too, but such a problem is not spoken of.
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
_told: set[str] = set()  # what was said at the start


def install() -> None:
    """Patch clients' torch_utils modules whenever they are imported, now also if they already are.

    Calling it again changes nothing. ValueError for an unknown value of a YOLOV5_UTILS_* switch.
    """
    for switch in SWITCHES:
        switch.read()
    with _lock:
        _finder.install()
        present = [(name, module) for name, module in list(sys.modules.items()) if is_client(name)]
        for name, module in present:
            if not issubclass(type(module), ModuleType):  # a stand-in of some test
                continue
            if _being_imported(module):
                _noted(name, "it was being imported when patch() was called: call it again")
            else:
                _executed(module)


def uninstall() -> None:
    """Take the finder away and give the clients' functions their own code back."""
    with _lock:
        _finder.uninstall()
        if any(record.replaced for record in _records.values()):
            from . import patches

            patches.revert_all()
        if _records:
            from . import announce

            announce.forget()
        _records.clear()


def at_start() -> None:
    """What the installed .pth file calls where YOLOV5_UTILS_OVERLAY is not unset, empty or 0.

    Runs in every process of the environment, pip's too, so a wrong value is one line on stderr; and
    twice where that is a virtual environment, whose files `site` reads again.
    """
    try:
        if OVERLAY.on():
            install()
    except ValueError as error:
        text = f"yolov5_utils: {error}; nothing is replaced"
        if text not in _told:
            print(text, file=sys.stderr)
        _told.add(text)


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

    Whatever goes wrong leaves the module as it is, with the reason on record; under
    YOLOV5_UTILS_STRICT=1 it is raised as an ImportError.
    """
    try:
        record = _patched(module)
        spoken_of = record.release is not None  # another project's file is none of our business
    except Exception as error:  # a broken extension, whose text names the remedy, or our own fault
        reason = str(error) if isinstance(error, ImportError) else repr(error)
        if STRICT.on():
            raise ImportError(reason) from error
        record = _left(module, reason)
        spoken_of = True
    _records[record.module] = record
    if spoken_of:
        with contextlib.suppress(Exception):  # a logger that fails is no reason to fail
            _announce(module, record)


def _patched(module: ModuleType) -> Record:
    from .fingerprint import NotRecognised, identify

    try:
        found = identify(module)
    except NotRecognised as why:
        return _left(module, f"not YOLOv5's: {why}")
    if BACKEND.read() == "torch":
        return _left(module, f"{BACKEND.name}=torch", found.release)
    from . import patches

    replaced = patches.apply(module, found)
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
    """One line through the client's own logger.

    YOLOv5 imports ultralytics, before or after its own module: each of the two has its line.
    """
    if not record.replaced and record.module not in CLIENTS:
        return
    import logging

    from .announce import once

    client = "ultralytics" if record.module.startswith("ultralytics.") else "YOLOv5"
    logger: Any = getattr(module, "LOGGER", None) or getattr(module, "logger", None)
    logger = logger or logging.getLogger("yolov5_utils")
    if record.replaced:
        names = ", ".join(record.replaced)
        text = f"yolov5_utils {__version__}: {names} of {record.module} replaced"
        once(client, logger, "info", text)
    else:
        reason = "; ".join(f"{name}: {why}" for name, why in record.left.items())
        reason = record.left.get("module", reason)
        text = f"yolov5_utils {__version__}: {record.module} runs as it is: {reason}"
        once(client, logger, "warning", text)


def _imported(module: ModuleType) -> None:
    """Patch a client module at the end of its import, unless that began before unpatch()."""
    with _lock:
        if installed():
            _executed(module)


_finder = Finder(is_client, _imported, _noted)
