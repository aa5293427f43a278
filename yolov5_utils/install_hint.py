"""How to install this package, and what a C extension that cannot be loaded calls for. Must not
import torch: a client runs next."""

from __future__ import annotations

import shlex
from pathlib import Path

NAME = "yolov5-torch-utils"
ON_INDEX = False  # True from the day of the first release on: texts then name the distribution


def source() -> str:
    """What pip installs the package from, as a word of a shell's command."""
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file():
        return shlex.quote(str(checkout))
    return NAME if ON_INDEX else "PATH (of the wheel's file, or of a checkout)"


def for_broken_extension(error: ImportError) -> str:
    """One line for `error`, which the import of the extension raised: what is wrong, what to do."""
    return (
        f"the C extension yolov5_utils._C cannot be loaded ({error}). Remedy: install the package "
        f"for this interpreter: pip install --force-reinstall --no-deps {source()}"
    )
