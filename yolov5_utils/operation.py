"""What is known of a hot path: one record, by which it is tried in C, counted and explained.

Must not know any hot path: each makes its record in ops/, where they are collected.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from . import _native, probe, switches, verify
from .originals import Originals

BACKENDS = ("C", "CUDA", "torch")

_STRICT = switches.STRICT.on()


def small_layers() -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution and its batch norm as YOLOv5 has them, on the CPU, wanting no gradient."""
    place: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}
    conv, bn = nn.Conv2d(3, 4, 3, **place), nn.BatchNorm2d(4, **place)
    return conv.requires_grad_(False), bn.requires_grad_(False)


def is_plain_number(value: Any) -> bool:
    """A number of Python's or numpy's own: nothing but itself can raise in its arithmetic."""
    return type(value) in (float, int) or (
        type(value).__module__ == "numpy" and isinstance(value, numbers.Real)
    )


def _never_on_gpu(result: Any) -> bool:
    return False


@dataclass(eq=False)
class Operation:
    """A hot path, and the calls of this process so far by backend."""

    name: str  # the stem of its files
    public_names: tuple[str, ...]  # of what people call
    function: str  # the C extension's that does the work
    originals: Originals  # what the original calls in torch
    # Arguments of a small call as YOLOv5 makes it, on the CPU; then what takes them: the package's
    # function, the same in plain torch operations, and what tries such a call without a trace,
    # Unsupported where torch has to run.
    usual: Callable[[], tuple[Any, ...]]
    call: Callable[..., Any]
    reference: Callable[..., Any]
    check: Callable[..., object]
    # Whether this result of `attempt` was made by the CUDA library; None never was.
    on_gpu: Callable[[Any], bool] = _never_on_gpu
    # In verify mode, asked before a call: what compares its result with the reference's, or None.
    compare: Callable[..., Callable[[Any], None] | None] | None = None
    # Calls that C counts itself, where nothing in Python stands between.
    counted_in_c: Callable[[], int] = int
    # Of a usual call, in words; None: what all have in common.
    runs: str | None = None

    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BACKENDS, 0))
    reasons: dict[str, int] = field(default_factory=dict)  # why torch ran -> number of calls

    def attempt(self, function: Callable[..., Any], *args: Any) -> tuple[bool, Any]:
        """Run `function(*args)` in C: (True, result), or (False, None) where torch must run.

        The C function has changed nothing when it refuses. Under YOLOV5_UTILS_STRICT=1 a refusal is
        raised as RuntimeError, in verify mode a difference as VerifyError; every other exception
        passes through.
        """
        compare = None
        if verify.ON and self.compare is not None and not verify.torch_must_run():
            compare = self.compare(*args)
        # As `run` does; between two training steps a function more takes microseconds.
        reason, result = self.originals.replaced() or _native.switched_off(), None
        if reason is None:
            try:
                result = function(*args)
            except _native.Unsupported as why:
                reason = str(why)
        if reason is not None:
            self.note_torch(reason)
            return False, None
        self.calls["C" if result is None or not self.on_gpu(result) else "CUDA"] += 1
        if compare is not None:
            with torch.no_grad():
                compare(result)
        return True, result

    def run(self, function: Callable[..., Any], *args: Any) -> tuple[str | None, Any]:
        """Run `function(*args)` in C and count nothing: why not, or None, and its result."""
        reason = self.originals.replaced()
        return (reason, None) if reason is not None else _native.run(function, *args)

    def refusal(self) -> str | None:
        """Why no call can run in C here, or None."""
        if not hasattr(_native._C, self.function):
            return "not in C in this version"
        return _native.switched_off()

    def note_torch(self, reason: str, count: int = 1) -> None:
        """Count calls that torch runs; RuntimeError under YOLOV5_UTILS_STRICT=1."""
        # A graph that counts is compiled anew for each number, in the end not at all.
        if _STRICT or not probe.is_compiling():
            self.count_torch(reason, count)

    def count_torch(self, reason: str, count: int = 1) -> None:
        """`note_torch`, where it is known that torch.compile is not reading."""
        if _STRICT and self.refusal() is None:
            text = f"{self.name}: C cannot run this call ({reason}), and STRICT is on"
            raise RuntimeError(text)
        self.calls["torch"] += count
        self.reasons[reason] = self.reasons.get(reason, 0) + count

    def counted(self) -> dict[str, int]:
        """The calls so far by backend, also those that C counts itself."""
        return {**self.calls, "C": self.calls["C"] + self.counted_in_c()}
