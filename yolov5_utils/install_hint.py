"""How to install this package, and what a C extension that cannot be loaded calls for. Must not
import torch: a client runs next."""

from __future__ import annotations

import importlib.util
import os
import shlex
import struct
import sys
from importlib.machinery import PathFinder
from pathlib import Path

NAME = "yolov5-torch-utils"
ON_INDEX = False  # True from the day of the first release on: texts then name the distribution


def _checkout() -> Path | None:
    """The checkout that this file is in, or None."""
    folder = Path(__file__).resolve().parents[1]
    return folder if (folder / "pyproject.toml").is_file() else None


def source() -> str:
    """What pip installs the package from, as a word of a shell's command."""
    checkout = _checkout()
    if checkout is not None:
        return shlex.quote(str(checkout))
    return NAME if ON_INDEX else "PATH (of the wheel's file, or of a checkout)"


def _pip() -> str:
    """The pip of this interpreter, as a shell's command."""
    return f"{shlex.quote(sys.executable)} -m pip" if sys.executable else "pip"


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
    checkout = _checkout()
    if checkout is not None and not any(checkout.glob("yolov5_utils/_C.*so")):
        elsewhere = [path for path in sys.path if Path(path).resolve() != checkout]
        installed = PathFinder.find_spec("yolov5_utils", elsewhere)
        said = f"the checkout {checkout} is not built. Remedy: "
        if installed is None or not installed.origin:
            return f"{said}{_pip()} install --no-deps --editable {source()}"
        named = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        by_folder = Path.cwd() == checkout and checkout not in [Path(e).resolve() for e in named]
        leave = "cd .." if by_folder else "take the checkout off PYTHONPATH or sys.path"
        where = Path(installed.origin).parent
        return f"{said}{leave} to import the package that is installed in {where}"
    return (
        f"the C extension yolov5_utils._C cannot be loaded ({error}). Remedy: install the package "
        f"for this interpreter: {_pip()} install --force-reinstall --no-deps {source()}"
    )
