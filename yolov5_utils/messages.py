"""Lines on stderr, in the process that the user looks at. Must not import torch."""

from __future__ import annotations

import os
import sys
from typing import Any

_said: set[str] = set()


def say(text: str) -> None:
    """Print a line on stderr, unless it is for another process to speak."""
    if speaks() and getattr(sys, "stderr", None) is not None:  # print would take stdout instead
        print(f"yolov5_utils: {text}", file=sys.stderr)


def say_once(text: str) -> None:
    """`say`, unless this process has said that."""
    if text not in _said:
        _said.add(text)
        say(text)


def speaks() -> bool:
    """True but on ranks other than the first, and in children of multiprocessing."""
    return os.environ.get("RANK", "-1") in ("-1", "0") and not in_worker()


def in_worker() -> bool:
    """True in children of multiprocessing.

    Their name is set before they import anything of the program's; only the fork server, which
    imports the main module for its children, goes by that module's name alone.
    """
    main = sys.modules.get("__mp_main__")
    process: Any = sys.modules.get("multiprocessing.process")
    return process is not None and (
        process.current_process().name != "MainProcess"
        or getattr(main, "__name__", None) == "__mp_main__"
    )
