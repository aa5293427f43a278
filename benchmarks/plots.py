"""Two pictures of the figures: how much faster, and how close to the limit of memory.

Drawn from the JSON that `python -m benchmarks` writes; must not measure anything.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from .harness import machine_line
from .summary import Line, caches, case_name, lines_of

ORIGINAL_COLOUR, PEER_COLOUR = "#0072b2", "#d55e00"  # told apart without colour vision
SPEED, LIMIT = "speed.png", "limit.png"
TICKS = (0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100, 200)
LINE_INCHES = 0.36  # height of one line of a picture
MARGIN_INCHES = 1.25  # what title, axis and caption take


def _figure(places: Sequence[float]) -> tuple[Figure, Any]:
    """A figure drawn by Agg, without pyplot: no window system, no global state."""
    height = LINE_INCHES * (places[0] - places[-1] + 1.5) + MARGIN_INCHES
    figure = Figure(figsize=(9.5, height), dpi=130)
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    figure.subplots_adjust(
        left=0.27, right=0.97, top=1 - 0.62 / height, bottom=(MARGIN_INCHES - 0.62) / height
    )
    return figure, axis


def _places(lines: Sequence[Line]) -> list[float]:
    """Heights of the lines, from the top down, with a gap between paths."""
    places, at = [], 0.0
    for i, line in enumerate(lines):
        at -= 1.0 if i == 0 or line.path == lines[i - 1].path else 1.45
        places.append(at)
    return places


def _name_lines(axis: Any, lines: Sequence[Line], places: Sequence[float]) -> None:
    axis.set_yticks(places, [case_name(line) for line in lines], fontsize=8.5)
    axis.set_ylim(places[-1] - 0.75, places[0] + 0.75)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8.5)
    for i, line in enumerate(lines):
        if i == 0 or line.path != lines[i - 1].path:
            axis.text(
                -0.365,
                places[i],
                line.path,
                transform=axis.get_yaxis_transform(),
                fontsize=9.5,
                fontweight="bold",
                va="center",
            )
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _describe(figure: Figure, keys: list[Any], caption: str, title: str) -> None:
    """A legend, a title above it, and a caption below the picture."""
    figure.legend(
        handles=keys,
        loc="upper left",
        bbox_to_anchor=(0.01, 1 - 0.28 / figure.get_figheight()),
        ncol=len(keys),
        fontsize=8.5,
        frameon=False,
    )
    figure.suptitle(title, fontsize=11.5, x=0.02, ha="left", y=1 - 0.12 / figure.get_figheight())
    place = 0.07 / figure.get_figheight()
    figure.text(0.02, place, caption, fontsize=6.8, color="#555555", va="bottom")


def speed_figure(content: dict[str, Any]) -> Figure:
    """Times faster than the original, and than the best other implementation, on one thread."""
    lines = lines_of(content)
    title = f"Times as fast, 1 thread, {caches(lines)}"
    return speed_bars(lines, machine_line(content["machine"]), title)


def speed_bars(lines: Sequence[Line], caption: str, title: str) -> Figure:
    """A bar for what each line was compared with, and a legend of these."""
    places = _places(lines)
    figure, axis = _figure(places)
    for line, place in zip(lines, places, strict=True):
        many = line.original_many or 0.0
        _bar(axis, place + 0.19, line.original, ORIGINAL_COLOUR, f"{line.original:.3g}×", many)
        if line.original_many is not None:
            axis.plot(
                line.original_many,
                place + 0.19,
                marker="o",
                ms=4.5,
                mfc="white",
                mec="#222222",
                ls="",
                zorder=4,
            )
        if line.peer is not None:
            _bar(axis, place - 0.19, line.peer, PEER_COLOUR, f"{line.peer:.3g}×  {line.peer_name}")
    axis.axvline(1, color="#222222", lw=1, zorder=3)
    axis.set_xscale("log")
    highest = max(max(line.original, line.original_many or 0) for line in lines)
    lowest = 0.9 * min(1.0, *(min(line.original, line.peer or 1) for line in lines))
    axis.set_xlim(lowest, max(10.0, highest * 1.6))
    axis.xaxis.set_major_locator(FixedLocator([t for t in TICKS if t >= lowest]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.minorticks_off()
    axis.grid(axis="x", color="#dddddd", lw=0.6)
    axis.set_axisbelow(True)
    _name_lines(axis, lines, places)
    keys: list[Any] = [Patch(color=ORIGINAL_COLOUR, label="than YOLOv5's own lines")]
    if any(line.peer is not None for line in lines):
        keys.append(Patch(color=PEER_COLOUR, label="than the best other implementation"))
    if any(line.original_many is not None for line in lines):
        dot: dict[str, Any] = {"marker": "o", "mfc": "white", "mec": "#222222", "ls": ""}
        keys.append(Line2D([], [], label="the first, 2 threads", **dot))
    _describe(figure, keys, caption, title)
    return figure


def _bar(axis: Any, place: float, ratio: float, colour: str, text: str, mark: float = 0.0) -> None:
    """From 1 to the ratio, which is written behind it, or inside where a mark is behind it."""
    axis.barh(place, ratio - 1, left=1, height=0.34, color=colour, zorder=2)
    if mark > ratio > 1.5:
        axis.annotate(
            text,
            (ratio, place),
            (-4, 0),
            textcoords="offset points",
            fontsize=7.5,
            color="white",
            ha="right",
            va="center",
        )
    else:
        _write(axis, max(ratio, mark, 1.0), place, text)


def _write(axis: Any, x: float, y: float, text: str) -> None:
    """Text to the right of a place, readable on lines of the background."""
    axis.annotate(
        text,
        (x, y),
        (5, 0),
        textcoords="offset points",
        fontsize=7.5,
        va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
        zorder=3.5,
    )


def limit_figure(content: dict[str, Any]) -> Figure:
    """The share of the speed at which torch alone moves the bytes that cannot be avoided."""
    lines = [line for line in lines_of(content) if line.shares]
    places = _places(lines)
    figure, axis = _figure(places)
    colours = {1: ORIGINAL_COLOUR, 2: "#89bfe0"}
    for line, place in zip(lines, places, strict=True):
        for number, (threads, share) in enumerate(line.shares.items()):
            at = place + 0.19 - 0.38 * number
            axis.barh(at, share, height=0.34, color=colours.get(threads, "#89bfe0"), zorder=2)
            _write(axis, share, at, f"{share:.0%}")
    axis.axvline(1, color="#222222", lw=1, zorder=3)
    axis.set_xlim(0, 1.15 * max(1.0, *(max(line.shares.values()) for line in lines)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axis.grid(axis="x", color="#dddddd", lw=0.6)
    axis.set_axisbelow(True)
    _name_lines(axis, lines, places)
    keys = [Patch(color=colours[1], label="1 thread"), Patch(color=colours[2], label="2 threads")]
    title = f"Share of the speed at which torch only moves the same bytes, {caches(lines)}"
    _describe(figure, keys, machine_line(content["machine"]), title)
    return figure


def draw(content: dict[str, Any], folder: Path) -> list[Path]:
    """Save both pictures in `folder`; ValueError where there is nothing to draw."""
    if not lines_of(content):
        raise ValueError("no figures of a hot path on 1 thread to draw")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, make in ((SPEED, speed_figure), (LIMIT, limit_figure)):
        if make is speed_figure or any(line.shares for line in lines_of(content)):
            make(content).savefig(folder / name)
            written.append(folder / name)
    return written


def main() -> None:
    """Draw again from a file of figures."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    options.add_argument("json", type=Path, help="what python -m benchmarks --json wrote")
    options.add_argument("folder", type=Path, help="where the pictures go")
    chosen = options.parse_args()
    for path in draw(json.loads(chosen.json.read_text()), chosen.folder):
        print(path)


if __name__ == "__main__":
    main()
