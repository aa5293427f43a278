"""Every YOLOV5_UTILS_* run-time switch, its values and meaning. Must not import torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple


class Switch(NamedTuple):
    """One environment variable: its name, the values it may take, the default and the meaning."""

    name: str
    values: tuple[str, ...]
    default: str
    meaning: str

    def read(self) -> str:
        """Its value in the environment now, where an empty variable is as good as none.

        ValueError listing the valid values for any other.
        """
        value = os.environ.get(self.name) or self.default
        if value not in self.values:
            allowed = ", ".join(v for v in self.values if v)
            raise ValueError(f"{self.name}={value!r}: allowed values are {allowed}")
        return value

    def on(self) -> bool:
        """True for a 0/1 switch set to 1."""
        return self.read() == "1"


BACKEND = Switch("YOLOV5_UTILS_BACKEND", ("auto", "torch"), "auto", "torch: never use C")
CPU = Switch(
    "YOLOV5_UTILS_CPU",
    ("", "portable", "avx2", "avx512", "neon"),
    "",
    "cap the instruction level of the C kernels",
)
OVERLAY = Switch(
    "YOLOV5_UTILS_OVERLAY", ("0", "1"), "0", "1: patch YOLOv5 in every process of this Python"
)
STRICT = Switch(
    "YOLOV5_UTILS_STRICT", ("0", "1"), "0", "1: what C cannot do is an error, not a torch path"
)
VERBOSE = Switch(
    "YOLOV5_UTILS_VERBOSE",
    ("0", "1"),
    "0",
    "1: a line at the end with the calls by hot path and backend, and why torch ran some",
)
VERIFY = Switch(
    "YOLOV5_UTILS_VERIFY",
    ("0", "1"),
    "0",
    "1: run the reference beside every hot call and raise at the first different bit",
)

ALL = (BACKEND, CPU, OVERLAY, STRICT, VERBOSE, VERIFY)

# What builds and tests read.
_ELSEWHERE = ("COVERAGE", "CUDA", "DEBUG", "SANITIZE", "TEST_ROUNDS", "WERROR")
_PREFIX = "YOLOV5_UTILS_"
_NEARLY = 0.85  # of 1: YOLOV5_UTIL_CPU is that near, YOLOv5's own YOLOv5_VERBOSE is not


def set_level(configure: Callable[..., object]) -> None:
    """Have the extension's `configure` take the level; ValueError where there is none such here."""
    level = CPU.read() or None
    try:
        configure(level=level)
    except ValueError as error:  # a level that this CPU or this build does not have
        raise ValueError(f"{CPU.name}: {str(error).removeprefix('level: ')}") from None


def check() -> None:
    """Say which variables of the environment are none of ours; ValueError for an unknown value."""
    name_misspelt()
    for switch in ALL:
        switch.read()


def name_misspelt() -> None:
    """A line for each variable that is nearly one of ours, or begins like them, once a process."""
    known = [switch.name for switch in ALL] + [_PREFIX + name for name in _ELSEWHERE]
    for name in os.environ:
        if name in known or not name.upper().startswith("YOLO"):
            continue
        import difflib  # these two not before there may be something to say

        near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=_NEARLY)
        if near or name.startswith(_PREFIX):
            from .messages import say_once

            hint = f"did you mean {near[0]}?" if near else "python -m yolov5_utils --help has all"
            say_once(f"{name} is not a variable of this package: {hint}")
