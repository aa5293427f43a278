"""`python -m yolov5_utils demo`: a small detector learns to find drawn shapes, offline, on the CPU.

This file reads the arguments and looks for what the demo needs; it must not import torch, numpy or
matplotlib, so that a missing one is told in one line.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

WAITING = "OMP_WAIT_POLICY"
_NEEDED = ("numpy", "matplotlib")


def main(argv: Sequence[str]) -> int:
    """Run the demo: 0, or 1 where a bit differs, the detector has not learnt or something lacks.

    `argv` are the arguments after `demo`; a wrong one ends in argparse's SystemExit(2).
    """
    options = _parser().parse_args(list(argv))
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"yolov5_utils demo: {' and '.join(missing)} not installed. "
            'Remedy: pip install "yolov5-torch-utils[demo]"',
            file=sys.stderr,
        )
        return 1
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"yolov5_utils demo: --output {options.output}: {error}", file=sys.stderr)
        return 1
    with _patient_threads():
        from .story import Plan, tell
    return tell(Plan(**vars(options)))


@contextlib.contextmanager
def _patient_threads() -> Iterator[None]:
    """Have OpenMP threads sleep rather than spin at barriers, where torch is loaded meanwhile.

    On cores that others use too, spinning makes a training step several times as long. OpenMP reads
    the variable once, as it is loaded; a value of the user's stays.
    """
    given = os.environ.get(WAITING)
    os.environ.setdefault(WAITING, "PASSIVE")
    try:
        yield
    finally:
        if given is None:
            del os.environ[WAITING]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m yolov5_utils demo",
        description="Train, prune, fuse and time a small YOLOv5-shaped detector on drawn shapes; "
        "check every hot path bit for bit against plain torch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo_output"), help="folder for the two pictures"
    )
    parser.add_argument("--epochs", type=_positive, default=8, help="passes over the pictures")
    parser.add_argument("--pictures", type=_positive, default=960, help="pictures to learn from")
    parser.add_argument("--seed", type=_seed, default=0, help="of pictures, weights and order")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2**31 - 1")
    return int(text)
