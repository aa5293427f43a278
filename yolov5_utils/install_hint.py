"""How to install this package, and what a C extension that cannot be loaded calls for. Must not
import torch: a client runs next."""

from __future__ import annotations

import importlib.util
import os
import shlex
import struct
from pathlib import Path

NAME = "yolov5-torch-utils"
ON_INDEX = False  # True from the day of the first release on: texts then name the distribution


def source() -> str:
    """What pip installs the package from, as a word of a shell's command."""
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file():
        return shlex.quote(str(checkout))
    return NAME if ON_INDEX else "PATH (of the wheel's file, or of a checkout)"


def refuse_truncated(module: str) -> None:
    """ImportError where the file of an extension module is cut off, as by a disk that was full.

    To load one ends the process with SIGBUS. An ELF file ends with its table of sections.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin:
        return
    with open(spec.origin, "rb") as file:
        header = file.read(64)
        size = os.fstat(file.fileno()).st_size
    if len(header) == 64 and header.startswith(b"\x7fELF\x02\x01"):  # 64 bits, little-endian
        (table,) = struct.unpack_from("<Q", header, 40)
        bytes_each, sections = struct.unpack_from("<HH", header, 58)
        whole = table + bytes_each * sections
        if size < whole:
            raise ImportError(f"{spec.origin} is cut off: it has {size} of {whole} bytes")


def for_broken_extension(error: ImportError) -> str:
    """One line for `error`, which the import of the extension raised: what is wrong, what to do."""
    return (
        f"the C extension yolov5_utils._C cannot be loaded ({error}). Remedy: install the package "
        f"for this interpreter: pip install --force-reinstall --no-deps {source()}"
    )
