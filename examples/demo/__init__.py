"""`python -m yolov5_utils demo`: a small detector learns to find drawn shapes, offline, on the CPU.

This file reads the arguments and looks for what the demo needs; it must not import torch, numpy or
matplotlib, so that a missing one is told in one line.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

_NEEDED = ("numpy", "matplotlib")


def main(argv: Sequence[str]) -> int:
    """Run the demo: 0, or 1 where a bit differs, the detector has not learnt or something lacks.

    `argv` are the arguments after `demo`; a wrong one ends in argparse's SystemExit(2).
    """
    options = _parser().parse_args(list(argv))
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        return _fail(
            f"{' and '.join(missing)} not installed. Remedy: pip install {' '.join(missing)}"
        )
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _fail(f"--output {options.output}: {error}")
    # OpenMP reads this once, when torch is loaded: threads that spin at barriers make a training
    # step several times as long on cores that others use too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from .story import tell

    return tell(options.output, options.epochs, options.pictures, options.seed)


def _fail(text: str) -> int:
    print(f"yolov5_utils demo: {text}", file=sys.stderr)
    return 1


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
    parser.add_argument("--epochs", type=_number, default=8, help="passes over the pictures")
    parser.add_argument("--pictures", type=_number, default=960, help="pictures to learn from")
    parser.add_argument("--seed", type=_seed, default=0, help="of pictures, weights and order")
    return parser


def _number(text: str, least: int = 1) -> int:
    if not text.isdecimal() or not least <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number from {least} to 2**31 - 1"
        )
    return int(text)


def _seed(text: str) -> int:
    return _number(text, 0)
