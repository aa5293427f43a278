"""Speed for unmodified YOLOv5 and ultralytics: swaps the hot callables of their own torch_utils.

`install()` puts a finder on the import path. The client's file executes as always; before its
import returns it is identified and, if it is one that is known, patched in place. Importing this
package, and installing, imports no torch: the client does that, when it always did.
"""

from __future__ import annotations

import contextlib
import os
import sys
from types import ModuleType
from typing import Any, NamedTuple

from .. import __version__
from ..switches import ALL as SWITCHES
from ..switches import BACKEND, OVERLAY, STRICT
from .finder import Finder

# The modules of which the log says why they were left alone. A copy inside another package is
# looked at too, but not spoken of: `utils.torch_utils` is a common name.
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
_announced: set[str] = set()  # the clients whose line was logged: one line each a process
_told: set[str] = set()  # what was said at the start


def install() -> None:
    """Patch clients' torch_utils modules whenever they are imported, now also if they already are.

    Calling it again changes nothing. ValueError for an unknown value of a YOLOV5_UTILS_* switch.
    """
    for switch in SWITCHES:
        switch.read()
    if not installed():
        sys.meta_path.insert(0, _finder)
    present = [name for name in list(sys.modules) if is_client(name)]
    for module in (sys.modules.get(name) for name in present):
        if isinstance(module, ModuleType) and not _being_imported(module):
            _executed(module)
    if any(record.replaced for record in _records.values()):
        from . import patches

        patches.rebind()


def uninstall() -> None:
    """Take the finder away and give the clients their own callables back, wherever they are."""
    if installed():
        sys.meta_path.remove(_finder)
    if any(record.replaced for record in _records.values()):
        from . import patches

        patches.revert_all()
    _records.clear()
    _announced.clear()


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
    return _finder in sys.meta_path


def status() -> list[Record]:
    """One record for each client module met so far, in the order of their first import."""
    return list(_records.values())


def is_client(name: str) -> bool:
    """True for the full name of a module that may be a client's torch_utils."""
    return name in CLIENTS or name.endswith(".utils.torch_utils")


def _being_imported(module: ModuleType) -> bool:
    """True for a module that is not complete yet: the finder will see it when it is."""
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _executed(module: ModuleType) -> None:
    """Patch a client module that has just executed.

    Whatever goes wrong leaves the module as it is, with the reason on record; under
    YOLOV5_UTILS_STRICT=1 it is raised as an ImportError.
    """
    from .fingerprint import NotRecognised

    file = getattr(module, "__file__", None)
    try:
        record = _patched(module, file)
    except NotRecognised as why:
        record = Record(module.__name__, file, None, (), {"module": f"not YOLOv5's: {why}"})
    except Exception as error:  # a broken extension, whose text names the remedy, or our own fault
        reason = str(error) if isinstance(error, ImportError) else repr(error)
        if STRICT.on():
            raise ImportError(reason) from error
        record = Record(module.__name__, file, None, (), {"module": reason})
    _records[module.__name__] = record
    with contextlib.suppress(Exception):  # a logger that fails is no reason to fail
        _announce(module, record)


def _patched(module: ModuleType, file: str | None) -> Record:
    from .fingerprint import identify

    found = identify(module)
    if BACKEND.read() == "torch":
        reason = f"{BACKEND.name}=torch"
        return Record(module.__name__, file, found.release, (), {"module": reason})
    from . import patches

    replaced = patches.apply(module, found)
    return Record(module.__name__, file, found.release, replaced, dict(found.left))


def _noted(name: str, reason: str) -> None:
    """Remember that a client module could not even be watched, and why."""
    _records[name] = Record(name, None, None, (), {"module": reason})


def _announce(module: ModuleType, record: Record) -> None:
    """One line through the client's own logger, once a process, on the first rank only.

    YOLOv5 imports ultralytics, before or after its own module: each of the two has its line.
    """
    client = "ultralytics" if record.module.startswith("ultralytics.") else "YOLOv5"
    if client in _announced or os.environ.get("RANK", "-1") not in ("-1", "0"):
        return
    if not record.replaced and record.module not in CLIENTS:
        return
    logger: Any = getattr(module, "LOGGER", None) or getattr(module, "logger", None)
    if logger is None:
        import logging

        logger = logging.getLogger("yolov5_utils")
    _announced.add(client)
    if record.replaced:
        names = ", ".join(record.replaced)
        logger.info(f"yolov5_utils {__version__}: {names} of {record.module} replaced")
    else:
        reason = "; ".join(f"{name}: {why}" for name, why in record.left.items())
        reason = record.left.get("module", reason)
        logger.warning(f"yolov5_utils {__version__}: {record.module} runs as it is: {reason}")


_finder = Finder(is_client, _executed, _noted)
