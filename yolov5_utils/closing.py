"""The closing line of YOLOV5_UTILS_VERBOSE=1: the calls of a process by hot path and backend, and
why torch ran some. Imported where the switch is on. Must import no torch and know no hot path."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Mapping
from typing import Any

from . import __version__, messages

_counted: dict[str, Any] = {}  # hot path -> its record
_asked = False  # whether somebody patched by hand, who is told also that there were no calls


def watch(records: Mapping[str, Any], asked: bool = False) -> None:
    """Say when Python ends what these counted."""
    global _asked
    if not _counted and not _asked:
        atexit.register(_say, os.getpid())
    _counted.update(records)
    _asked |= asked


def _say(process: int) -> None:
    """Every rank says its own line; workers that called nothing, and forked children, say none."""
    called = any(any(record.counted().values()) for record in _counted.values())
    if os.getpid() == process and (called or (_asked and not messages.in_worker())):
        sys.stderr.write(f"{line()}\n")  # in one piece, which other ranks' lines do not part


def line() -> str:
    """What was called so far."""
    rank = os.environ.get("RANK")
    whose = "" if rank is None else f" rank {rank}:"
    parts = [f"{name} {words}" for name, record in _counted.items() if (words := _words(record))]
    return f"yolov5_utils {__version__}:{whose} calls: {'; '.join(parts) or 'none'}"


def _words(record: Any) -> str:
    """The calls of one hot path by backend, and the reasons."""
    calls = ", ".join(f"{backend} {count}" for backend, count in record.counted().items() if count)
    reasons = ", ".join(f"{reason} ({count})" for reason, count in record.reasons.items())
    return f"{calls}: {reasons}" if reasons else calls
