"""Runs the command line as its users do, in processes of their own, also beside python itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OURS = (sys.executable, "-m", "yolov5_utils")
STOCK = (sys.executable,)

Result = subprocess.CompletedProcess[str]


def run(
    command: tuple[str, ...],
    *arguments: str,
    folder: Path | None = None,
    stdin: str = "",
    stdout: Any = subprocess.PIPE,
    stderr: Any = subprocess.PIPE,
    **environment: str,
) -> Result:
    """What `command` prints and how it ends, with none of our switches but `environment`."""
    theirs = ("YOLOV5_UTILS", "PYTHONUNBUFFERED")
    clean = {key: value for key, value in os.environ.items() if not any(t in key for t in theirs)}
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env={**clean, **environment},
        input=stdin,
        stdout=stdout,
        stderr=stderr,
        text=True,
        check=False,
    )


def both(folder: Path, *arguments: str, **how: Any) -> tuple[Result, Result]:
    """The same script through this package and by python: results that should be equal.

    Without byte code, which would spare the second one the compiler's warnings.
    """
    how.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    return run(OURS, *arguments, folder=folder, **how), run(STOCK, *arguments, folder=folder, **how)


def assert_same(results: tuple[Result, Result]) -> None:
    ours, stock = results
    assert ours.stdout == stock.stdout
    assert ours.stderr == stock.stderr
    assert ours.returncode == stock.returncode
