"""Figures of prices: what a budget buys, perplexity against bytes, and growth. Each is as wide as a column of a page.

Kinds differ in colour (Okabe and Ito's, then two of Tol's, told apart by colour-blind readers), marker and line alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from hushlm.report.figures import INK

__all__ = ["Cloud", "Curve", "PerplexityPoint", "curves_figure", "frontier_figure", "perplexity_figure"]

COLUMN_INCHES = 3.6
RESOLUTION_DPI = 170
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#7F7F7F", "#882255", "#999933")
GREY = COLOURS[7]
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 3)))
SMALL, TEXT = 6.5, 7.5
"""Font sizes in points; a column is printed at about its size."""


@dataclass(frozen=True)
class Cloud:
    """Priced models of one kind.

    Attributes:
        name: what the legend calls them.
        points: (bytes, value) of all models.
        front: (bytes, value) of the models that no cheaper one is larger than, cheapest first.
    """

    name: str
    points: Sequence[tuple[float, float]]
    front: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class PerplexityPoint:
    """One measured model: its predicted bytes, its perplexity, and whether it is on the Pareto front."""

    name: str
    bytes: float
    perplexity: float
    on_front: bool


@dataclass(frozen=True)
class Curve:
    """One line of a panel: (x, bytes)."""

    name: str
    points: Sequence[tuple[float, float]]


def frontier_figure(panels: Sequence[tuple[str, Sequence[Cloud]]], budgets: Sequence[int]) -> Figure:
    """Size against bytes, both logarithmic: every model a dot, the largest for their bytes a line; a panel for each measure of size.

    Args:
        panels: (label of the size, a cloud for each kind); all with the same kinds.
        budgets: in bytes, drawn as vertical lines.
    """
    figure, axes = _column(len(panels), panel_inches=2.2, extra_inches=0.75)
    for axis, (label, clouds) in zip(axes, panels, strict=True):
        for cloud, colour, marker, dash in zip(clouds, *_styles(len(clouds)), strict=True):
            axis.plot(*_columns(cloud.points), linestyle="", marker=".", markersize=1.2, color=colour, alpha=0.25, rasterized=True)
            axis.plot(*_columns(cloud.front), linestyle=dash, marker=marker, markersize=2.6, linewidth=1.0, color=colour, label=cloud.name)
        for budget in budgets:
            axis.axvline(budget, color=INK, linewidth=0.8, linestyle=":")
        _logarithmic(axis, _count)
        axis.set_ylabel(label, fontsize=TEXT)
    axes[-1].set_xlabel("bytes of a private pass", fontsize=TEXT)
    handles, names = axes[0].get_legend_handles_labels()
    title = "largest for their bytes, with any kernel" + ("; budgets dotted" if budgets else "")
    figure.legend(handles, names, title=title, title_fontsize=TEXT, fontsize=SMALL, ncols=4, loc="outside upper center", frameon=False)
    return figure


def perplexity_figure(panels: Sequence[tuple[str, Sequence[PerplexityPoint]]]) -> Figure:
    """Perplexity against bytes; models for which none is cheaper and better are joined by a line. A panel for each task.

    Args:
        panels: (title, points).
    """
    figure, axes = _column(len(panels), panel_inches=2.9, extra_inches=0.1)
    for axis, (title, points) in zip(axes, panels, strict=True):
        front = sorted((point.bytes, point.perplexity) for point in points if point.on_front)
        others = [(point.bytes, point.perplexity) for point in points if not point.on_front]
        axis.plot(*_columns(others), linestyle="", marker="o", markersize=3.5, color=GREY, label="dominated")
        axis.plot(*_columns(front), linestyle="-", marker="s", markersize=4.5, linewidth=1.2, color=COLOURS[0], label="Pareto front")
        axis.margins(x=0.2, y=0.16)
        axis.set_title(title, fontsize=SMALL)
        axis.set_ylabel("perplexity", fontsize=TEXT)
        axis.xaxis.set_major_formatter(FuncFormatter(_bytes))
        axis.tick_params(labelsize=SMALL)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=SMALL, frameon=False, loc="upper right")
    axes[-1].set_xlabel("predicted bytes of a private pass", fontsize=TEXT)
    figure.canvas.draw()
    for axis, (_, points) in zip(axes, panels, strict=True):
        _label(axis, points)
    return figure


def curves_figure(panels: Sequence[tuple[str, Sequence[Curve]]], across: int = 1) -> Figure:
    """Bytes against sizes, both logarithmic; one legend for all panels where they hold several curves.

    Args:
        panels: (label of x, curves).
        across: panels in a row.
    """
    down = -(-len(panels) // across)
    several = max(len(curves) for _, curves in panels) > 1
    height = down * (2.3 if across == 1 else 1.5) + (0.7 if several else 0.1)
    figure = Figure(figsize=(COLUMN_INCHES, height), dpi=RESOLUTION_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(down, across, index + 1) for index in range(len(panels))]
    legend: Mapping[str, Any] = {}
    for index, (axis, (label, curves)) in enumerate(zip(axes, panels, strict=True)):
        for curve, colour, marker, dash in zip(curves, *_styles(len(curves)), strict=True):
            axis.plot(*_columns(curve.points), linestyle=dash, marker=marker, markersize=2.6, linewidth=1.1, color=colour, label=curve.name)
        _logarithmic(axis, _bytes)
        _own_ticks(axis, sorted({x for curve in curves for x, _ in curve.points}), apart=0.35 if across > 1 else 0.1)
        axis.set_xlabel(label, fontsize=TEXT)
        if index % across == 0:
            axis.set_ylabel("bytes", fontsize=TEXT)
        handles, names = axis.get_legend_handles_labels()
        legend = {**legend, **dict(zip(names, handles, strict=True))}
    if several:
        figure.legend(legend.values(), legend.keys(), fontsize=SMALL, ncols=2, loc="outside upper center", frameon=False)
    return figure


def _column(panels: int, panel_inches: float, extra_inches: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(COLUMN_INCHES, panels * panel_inches + extra_inches), dpi=RESOLUTION_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(panels, 1, index + 1) for index in range(panels)]


def _styles(count: int) -> tuple[list[str], list[str], list[Any]]:
    return tuple(list(islice(cycle(values), count)) for values in (COLOURS, MARKERS, DASHES))  # type: ignore[return-value]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _logarithmic(axis: Axes, y_format: Callable[[float, int], str]) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(_bytes))
    axis.yaxis.set_major_formatter(FuncFormatter(y_format))
    low, high = axis.get_ylim()
    if high / low < NEARLY_LINEAR:
        axis.yaxis.set_major_locator(MaxNLocator(4))
    elif high / low < FEW_DECADES:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for one in (axis.xaxis, axis.yaxis):
        one.set_minor_formatter(NullFormatter())
    axis.tick_params(labelsize=SMALL)
    axis.grid(True, which="major", linewidth=0.3, color="#cccccc")
    axis.spines[["top", "right"]].set_visible(False)


def _own_ticks(axis: Axes, values: Sequence[float], apart: float) -> None:
    """Ticks of x at the sizes themselves, as many as are at least this share of the axis apart; the last one always."""
    ticks: list[float] = []
    for value in reversed(values):
        if not ticks or math.log(ticks[-1] / value) >= apart * math.log(values[-1] / values[0]):
            ticks.append(value)
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(_plain))


NEARLY_LINEAR, FEW_DECADES = 5, 50
"""Up to the first ratio of the y axis' ends, round numbers are labelled; up to the second 1, 2 and 5; else powers of ten."""


def _scaled(number: float, units: Sequence[tuple[float, str]]) -> str:
    size, unit = next(((size, unit) for size, unit in units if number >= size), units[-1])
    return f"{number / size:g}{unit}"


def _bytes(number: float, _: int = 0) -> str:
    return _scaled(number, ((1e15, " PB"), (1e12, " TB"), (1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1, " B")))


def _count(number: float, _: int = 0) -> str:
    return _scaled(number, ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")))


def _plain(number: float, _: int = 0) -> str:
    return f"{number:,.0f}"


PLACES = (
    *((5, y, "left") for y in (4, -9, -3, -5, 0)),
    *((-5, y, "right") for y in (4, -9, -3, -5, 0)),
    *((x, y, align) for y in (7, -12, 13, -18, 19, -24, 25) for x, align in ((0, "center"), (4, "left"), (-4, "right"))),
)
"""Offsets in points and alignment at which a point's name may stand, the best first."""


def _label(axis: Axes, points: Sequence[PerplexityPoint]) -> None:
    """Name every point where its name covers no other name and no point; the front first. What finds no such place stands at the last."""
    renderer = axis.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    taken = [_around(axis, (point.bytes, point.perplexity), 3) for point in points]
    front = sorted((point.bytes, point.perplexity) for point in points if point.on_front)
    for (x0, y0), (x1, y1) in pairwise(front):
        taken += [_around(axis, (x0 + share * (x1 - x0), y0 + share * (y1 - y0)), 1) for share in (k / 40 for k in range(41))]
    legend = axis.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent(renderer))
    for point in sorted(points, key=lambda point: (not point.on_front, point.bytes)):
        for x, y, align in PLACES:
            text = axis.annotate(
                point.name,
                (point.bytes, point.perplexity),
                xytext=(x, y),
                textcoords="offset points",
                fontsize=6,
                color=INK,
                ha=align,
                fontweight="bold" if point.on_front else "normal",
            )
            # A name must not move the axes that its place was found in.
            text.set_in_layout(False)
            box = text.get_window_extent(renderer)
            inside = axis.bbox.x0 <= box.x0 and box.x1 <= axis.figure.bbox.x1 and axis.bbox.y0 <= box.y0 and box.y1 <= axis.bbox.y1
            if (x, y, align) == PLACES[-1] or (inside and not any(box.overlaps(other) for other in taken)):
                taken.append(box)
                break
            text.remove()


def _around(axis: Axes, point: tuple[float, float], points: float) -> Bbox:
    """A square of twice so many points (1/72 inch) around a point of the data, in pixels."""
    x, y = axis.transData.transform(point)
    half = points * axis.figure.dpi / 72
    return Bbox.from_bounds(x - half, y - half, 2 * half, 2 * half)
