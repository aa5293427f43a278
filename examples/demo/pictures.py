"""The demo's picture of what the detector found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from .shapes import NAMES, SIZE_PIXELS

LEAST_SHOWN = 0.5  # score; below it a box is more likely wrong than right
ROWS, COLUMNS = 3, 5
TEXT_PIXELS = (26.0, 6.5)  # width and height of the longest text, "triangle 0.00", on a picture
COLOURS = ("#0072b2", "#d55e00", "#7b3294")  # told apart without colour vision, dark behind white


def detections(
    path: Path, images: Tensor, labels: list[Tensor], found: list[Tensor], title: str
) -> None:
    """Save the first pictures as a grid with the boxes `found` in colour and `labels` in white."""
    figure = Figure(figsize=(2.35 * COLUMNS, 2.35 * ROWS + 0.85), dpi=130)
    FigureCanvasAgg(figure)  # no window system, no global state
    axes = figure.subplots(ROWS, COLUMNS, squeeze=False)
    figure.subplots_adjust(left=0.008, right=0.992, bottom=0.06, top=0.93, wspace=0.03, hspace=0.03)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image, truth, boxes in zip(axes.flat, images, labels, found, strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        _draw_boxes(axis, truth, boxes)
    figure.suptitle(title, fontsize=11, y=0.98)
    keys = [
        Line2D([], [], color=colour, lw=2, label=f"found: {name}")
        for name, colour in zip(NAMES, COLOURS, strict=True)
    ]
    keys.append(Line2D([], [], color="#444444", lw=1, ls="--", label="where it is (white, dashed)"))
    figure.legend(handles=keys, loc="lower center", ncol=len(keys), fontsize=9, frameon=False)
    figure.savefig(path)


def _draw_boxes(axis: Any, labels: Tensor, found: Tensor) -> None:
    """Boxes of one picture with their texts; pixel 0 of imshow reaches from -0.5 to 0.5."""

    def outline(left: float, top: float, right: float, bottom: float, **style: Any) -> None:
        place = (left - 0.5, top - 0.5)
        axis.add_patch(Rectangle(place, right - left, bottom - top, fill=False, **style))

    for *box, score, kind in found.tolist():
        if score >= LEAST_SHOWN:
            colour, text = COLOURS[int(kind)], f"{NAMES[int(kind)]} {score:.2f}"
            outline(*box, ec=colour, lw=2.0)
            x = min(max(box[0], 0.0), SIZE_PIXELS - TEXT_PIXELS[0]) - 0.5
            y = max(box[1] - 1.0, TEXT_PIXELS[1]) - 0.5
            style = {"facecolor": colour, "edgecolor": "none", "pad": 1.0}
            axis.text(x, y, text, va="bottom", fontsize=6.5, color="white", bbox=style)
    for _, *box in labels.tolist():
        outline(*box, ec="white", lw=0.8, ls="--")
