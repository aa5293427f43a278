"""The picture of docs/scale-out.md: time of an update against ranks, by how the average is kept.

Drawn from the JSON that `python -m benchmarks.bench_scale_out` writes; must not measure anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .harness import COLD, machine_line

NAME = "scale-out.png"
# Told apart without colour vision, the package's first.
STYLES = (("#0072b2", "o"), ("#d55e00", "s"), ("#7b3294", "^"), ("#666666", "D"))


def ways(content: dict[str, Any]) -> list[str]:
    """Those that were computed too, in the order of the tables."""
    return list(dict.fromkeys(row["who"] for row in content["tables"][1]["rows"]))


def figure_of(content: dict[str, Any]) -> Figure:
    """A panel per model: measured points, computed lines."""
    measured, computed = (table["rows"] for table in content["tables"])
    models = list(dict.fromkeys(row["model"] for row in measured))
    figure = Figure(figsize=(9.5, 4.6), dpi=130)
    FigureCanvasAgg(figure)  # no window system, no global state
    axes = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.2, top=0.77, wspace=0.06)
    for axis, model in zip(axes, models, strict=True):
        for who, (colour, mark) in zip(ways(content), STYLES, strict=False):
            for rows, style in ((measured, {"marker": mark, "ls": ""}), (computed, {"ls": "-"})):
                points = [r for r in rows if (r["model"], r["who"]) == (model, who)]
                axis.plot(
                    [point["ranks"] for point in points],
                    [point[f"{COLD}_quartile_ms"] for point in points],
                    color=colour,
                    **style,
                )
        axis.set(xscale="log", yscale="log", xlabel="ranks")
        axis.set_title(f"YOLOv5{model}", fontsize=10)
        ticks = sorted({row["ranks"] for row in [*measured, *computed]})
        axis.xaxis.set_major_locator(FixedLocator(ticks))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.grid(color="#dddddd", lw=0.6)
    axes[0].set_ylabel("ms per update of the average")
    keys = [
        Line2D([], [], color=colour, marker=mark, label=who)
        for who, (colour, mark) in zip(ways(content), STYLES, strict=False)
    ]
    place = (0.01, 0.94)
    figure.legend(
        handles=keys, loc="upper left", bbox_to_anchor=place, ncol=2, fontsize=8.5, frameon=False
    )
    title = "An update of the EMA (points: measured, lines: computed; lower is better)"
    figure.suptitle(title, fontsize=11.5, x=0.02, ha="left", y=0.985)
    about = machine_line(content["machine"])
    figure.text(0.02, 0.015, about, fontsize=6.8, color="#555555", va="bottom")
    return figure


def draw(content: dict[str, Any], path: Path) -> None:
    """Save the picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure_of(content).savefig(path)
