"""What calls that torch runs cost more than the original's, and those on models of one element,
where nothing is to be gained: microseconds a call, interleaved with the original."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from yolov5_utils.ops.prune import prune_layers
from yolov5_utils.torch_utils import ModelEMA, fuse_conv_and_bn, scale_img, sparsity

from . import checks, harness, peers

# One call is short for a clock: this many are timed together.
CALLS = 20
COLUMNS = (
    harness.Column("call", "model"),
    harness.Column("way", "way"),
    harness.Column("original, µs", "original_us", "{:.2f}"),
    harness.Column("package, µs", "package_us", "{:.2f}"),
    harness.Column("more µs", "more_us", "{:+.2f}"),
    harness.Column("by lower quartiles", "more_quartile_us", "{:+.2f}"),
)
RATIO, GS = 0.5, 8


class Never:
    """A calibration that has found no variant, as on torch 1.13."""

    def __enter__(self) -> None:
        self._module = importlib.import_module("yolov5_utils.ops.scale_img")
        self._before = self._module._calibration, self._module._agrees
        self._module._calibration = self._module.Calibration()
        self._module._agrees = lambda *_: False
        scale_img(torch.ones(1, 3, 64, 64), RATIO, gs=GS)

    def __exit__(self, *_: object) -> None:
        self._module._calibration, self._module._agrees = self._before


class Row:
    """One comparison: the original's call, the package's, and what has to hold meanwhile."""

    def __init__(
        self,
        name: str,
        way: str,
        operation: str,
        original: Callable[[], object],
        package: Callable[[], object],
        around: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self.name, self.way, self.operation = name, way, operation
        self.calls, self.around = {"original": original, "package": package}, around

    def measure(self, seconds: float) -> dict[str, Any]:
        """The row of the table; AssertionError where the package took another way."""
        with self.around():
            with checks.ran(self.operation, self.way):
                self.calls["package"]()
            timings = harness.interleave(
                [
                    harness.Candidate(who, harness.many(call, CALLS))
                    for who, call in self.calls.items()
                ],
                seconds,
            )
        original, package = timings["original"].hot, timings["package"].hot
        scale = 1e6 / CALLS
        return {
            "model": self.name,
            "way": self.way,
            "threads": torch.get_num_threads(),
            "original_us": original.median_s * scale,
            "package_us": package.median_s * scale,
            "more_us": (package.median_s - original.median_s) * scale,
            "more_quartile_us": (package.quartile_s - original.quartile_s) * scale,
        }


def _image(name: str, image: Tensor, **around: Any) -> Row:
    return Row(
        f"scale_img, {name}",
        "torch",
        "scale_img",
        lambda: peers.original_scale_img(image, RATIO, GS),
        lambda: scale_img(image, RATIO, gs=GS),
        **around,
    )


def _one_element() -> list[Row]:
    linear, conv = nn.Linear(1, 1), nn.Conv2d(1, 1, 1)
    ours, theirs = ModelEMA(linear), peers.OriginalEMA(linear)
    return [
        Row(
            "ModelEMA.update, Linear(1, 1)",
            "C",
            "ema",
            lambda: theirs.update(linear),
            lambda: ours.update(linear),
        ),
        Row(
            "sparsity, Linear(1, 1)",
            "C",
            "sparsity",
            lambda: peers.original_sparsity(linear),
            lambda: sparsity(linear),
        ),
        Row(
            "prune, Conv2d(1, 1, 1)",
            "C",
            "prune",
            lambda: peers.original_prune(conv, 0.0),
            lambda: prune_layers(conv, 0.0),
        ),
    ]


def rows() -> list[Row]:
    """Everything that is compared."""
    image = torch.rand(1, 3, 64, 64)
    conv, bn = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8).eval()
    return [
        _image("float64", image.double()),
        _image("wants a gradient", image.clone().requires_grad_()),
        _image("no variant", image, around=Never),
        Row(
            "fuse_conv_and_bn, wants gradients",
            "torch",
            "fuse",
            lambda: peers.original_fuse(conv, bn),
            lambda: fuse_conv_and_bn(conv, bn),
        ),
        *_one_element(),
    ]


def table(seconds: float) -> harness.Table:
    """The table of calls that torch runs, and of those on one element."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measured = [row.measure(seconds) for row in rows()]
    finally:
        torch.set_num_threads(before)
    notes = [f"one thread, hot; the time of {CALLS} calls over their number"]
    return harness.Table("Calls without a gain", COLUMNS, measured, notes)


if __name__ == "__main__":
    harness.run(
        harness.parser(__doc__ or "", devices=("cpu",)),
        lambda chosen: [table(chosen.seconds / 4)],
    )
