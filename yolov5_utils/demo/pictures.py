"""The demo's two pictures: what the detector found, and how long the hot paths took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from .compare import Row, milliseconds

LEAST_SHOWN = 0.5  # score; below it a box is more likely wrong than right
GRID = (3, 5)
TEXT_PIXELS = (26.0, 6.5)  # width and height of the longest text, "triangle 0.00", on a picture
COLOURS = ("#0072b2", "#d55e00", "#7b3294")  # told apart without colour vision, dark behind white
ORIGINAL_COLOUR, OUR_COLOUR = "#b8b8b8", "#0072b2"


def _figure(width: float, height: float) -> Figure:
    """A figure drawn by Agg, without pyplot: no window system, no global state."""
    figure = Figure(figsize=(width, height), dpi=130)
    FigureCanvasAgg(figure)
    return figure


def detections(
    path: Path, images: Tensor, labels: list[Tensor], found: list[Tensor], title: str
) -> None:
    """Save the first pictures as a grid with the boxes `found` in colour and `labels` in white."""
    from .shapes import NAMES

    rows, columns = GRID
    figure = _figure(2.35 * columns, 2.35 * rows + 0.85)
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(left=0.008, right=0.992, bottom=0.06, top=0.93, wspace=0.03, hspace=0.03)
    for index, axis in enumerate(axes.flat):
        axis.set_axis_off()
        if index < len(images):
            axis.imshow(images[index].permute(1, 2, 0).numpy(), interpolation="nearest")
            _draw_boxes(axis, labels[index], found[index], images.shape[3], NAMES)
    figure.suptitle(title, fontsize=11, y=0.98)
    keys = [
        Line2D([], [], color=colour, lw=2, label=f"found: {name}")
        for name, colour in zip(NAMES, COLOURS, strict=True)
    ]
    keys.append(Line2D([], [], color="#444444", lw=1, ls="--", label="where it is (white, dashed)"))
    figure.legend(handles=keys, loc="lower center", ncol=len(keys), fontsize=9, frameon=False)
    figure.savefig(path)


def _draw_boxes(
    axis: Any, labels: Tensor, found: Tensor, size: int, names: tuple[str, ...]
) -> None:
    """Boxes of one picture; pixel 0 of imshow reaches from -0.5 to 0.5."""
    taken: list[tuple[float, float]] = []
    for left, top, right, bottom, score, kind in found.tolist():
        if score < LEAST_SHOWN:
            continue
        colour, text = COLOURS[int(kind)], f"{names[int(kind)]} {score:.2f}"
        axis.add_patch(_rectangle(left, top, right, bottom, ec=colour, lw=2.0))
        x, y = _place((left, top, right, bottom), size, taken)
        taken.append((x, y))
        axis.text(
            x - 0.5,
            y - 0.5,
            text,
            va="bottom",
            fontsize=6.5,
            color="white",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0},
        )
    for _, left, top, right, bottom in labels.tolist():
        axis.add_patch(_rectangle(left, top, right, bottom, ec="white", lw=0.8, ls="--"))


def _place(
    box: tuple[float, float, float, float], size: int, taken: list[tuple[float, float]]
) -> tuple[float, float]:
    """Left end and bottom of a box's text: at a corner, in the picture, off other texts."""
    left, top, right, bottom = box
    width, height = TEXT_PIXELS
    corners = [
        (x, y)
        for y in (top - 1, bottom + height + 1)
        for x in (left, right - width)
        if 0 <= x <= size - width and height <= y <= size
    ]
    for x, y in corners:
        if all(abs(x - other) > width or abs(y - at) > height for other, at in taken):
            return x, y
    return corners[0] if corners else (min(max(left, 0), size - width), max(top, height))


def _rectangle(left: float, top: float, right: float, bottom: float, **style: Any) -> Rectangle:
    return Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, **style)


def speed(path: Path, rows: list[Row], caption: str) -> None:
    """Save one pair of bars per hot path: the original's time as 100 %, and this package's."""
    height = 0.8 * len(rows) + 1.7
    figure = _figure(9.5, height)
    axis = figure.subplots()
    shares = [100 * row.ours_ms / row.original_ms for row in rows]
    places = range(len(rows))
    axis.barh([p - 0.2 for p in places], [100.0] * len(rows), 0.36, color=ORIGINAL_COLOUR)
    axis.barh([p + 0.2 for p in places], shares, 0.36, color=OUR_COLOUR)
    for place, row, share in zip(places, rows, shares, strict=True):
        way = row.way.split(" (")[0]
        texts = (
            (place - 0.2, 100.0, f"{milliseconds(row.original_ms)} ms", "normal"),
            (
                place + 0.2,
                share,
                f"{milliseconds(row.ours_ms)} ms   {row.ratio:.2f}x   runs in {way}",
                "bold",
            ),
        )
        for y, x, text, weight in texts:
            axis.text(x + 1, y, text, va="center", fontsize=8.5, fontweight=weight)
    axis.set_yticks(list(places), [row.name for row in rows])
    axis.set_xlim(0, max(100.0, *shares) * 1.55)  # room for the text behind the longest bar
    axis.set_xticks([0, 25, 50, 75, 100])
    axis.set_xlabel("time of one call, the original = 100 % (shorter is better)")
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title("Hot paths on the trained detector: plain torch and yolov5_utils", fontsize=11)
    bars = [
        Rectangle((0, 0), 1, 1, color=ORIGINAL_COLOUR, label="original (plain torch)"),
        Rectangle((0, 0), 1, 1, color=OUR_COLOUR, label="yolov5_utils"),
    ]
    figure.legend(handles=bars, loc="lower right", fontsize=8.5, frameon=False, ncol=2)
    figure.text(0.01, 0.015, caption, fontsize=7, color="#555555", va="bottom")
    figure.subplots_adjust(left=0.24, right=0.98, top=1 - 0.45 / height, bottom=1.0 / height)
    figure.savefig(path)
