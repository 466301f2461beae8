"""Figures of head entropies, as PNG. Colours keep their order in grey and for colour-blind readers (cividis, viridis).

Legend: L layers, H heads. Layers and heads are counted from 0.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hushlm.files import write_atomic

__all__ = ["LayerCourse", "head_entropy_figure", "head_share_figure", "layer_entropy_figure", "save_figure"]

HeadEntropies = Sequence[Sequence[float]]

COLOURS = matplotlib.colormaps["cividis"]
LINE_COLOURS = matplotlib.colormaps["viridis"]
RANGE_COLOURS = ("#00204d", "#5d636f", "#a59c74", "#f5d552")
"""The colours of the four entropy ranges, from dark to bright like the heat map."""

RANGE_NAMES = ("0 to m/4", "m/4 to m/2", "m/2 to 3m/4", "3m/4 to m")
PANELS_ACROSS = 3
MODELS_ACROSS = 4
RESOLUTION_DPI = 150
INK = "#222222"


@dataclass(frozen=True)
class LayerCourse:
    """Mean entropy of each layer over a run.

    Attributes:
        name: what the run is called.
        steps: the step of each record.
        layer_entropy_nats: a row for each record with a number for each layer; NaN where attention was no longer finite.
        maximum_nats: the largest entropy that can be attained.
        stopped_at: the step at which the entropy watch stopped the run, or None.
    """

    name: str
    steps: Sequence[int]
    layer_entropy_nats: Sequence[Sequence[float]]
    maximum_nats: float
    stopped_at: int | None = None

    @staticmethod
    def from_metrics(name: str, metrics: Sequence[Mapping[str, Any]], maximum_nats: float, stopped_at: int | None = None) -> LayerCourse:
        """The course that the rows of a metrics.jsonl tell of."""
        rows = [row for row in metrics if row["layer_entropy_nats"]]
        return LayerCourse(name, [row["step"] for row in rows], [row["layer_entropy_nats"] for row in rows], maximum_nats, stopped_at)


def head_entropy_figure(panels: Sequence[tuple[str, HeadEntropies]], maximum_nats: float, label: str | None = None) -> Figure:
    """L x H heat maps with numbers, one panel a model, on one scale.

    Args:
        panels: (title, head entropies in nats).
        maximum_nats: the end of the scale, which is the largest entropy that can be attained.
        label: what the scale says, where the numbers are no entropies.
    """
    tables = [np.asarray(entropies, dtype=float) for _, entropies in panels]
    heads = max(table.shape[1] for table in tables)
    heights = [max(1.6, 0.32 * table.shape[0] + 0.7) for table in tables]
    figure, axes = _grid(width=max(2.9, 0.62 * heads + 0.5), heights=heights)
    for axis, (title, _), table in zip(axes, panels, tables, strict=True):
        image = axis.imshow(table, cmap=COLOURS, vmin=0, vmax=maximum_nats, aspect="auto")
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(table.shape[1]))
        axis.set_yticks(range(table.shape[0]))
        axis.tick_params(length=0, labelsize=8)
        axis.set_xlabel("head", fontsize=9)
        axis.set_ylabel("layer", fontsize=9)
        for (layer, head), nats in np.ndenumerate(table):
            dark = not math.isfinite(nats) or nats / maximum_nats > 0.55
            axis.text(head, layer, f"{nats:.2f}", ha="center", va="center", fontsize=8, color="black" if dark else "white")
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, aspect=30)
    bar.set_label(label or f"mean row entropy (nats)\nat most {maximum_nats:.2f}", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def layer_entropy_figure(courses: Sequence[LayerCourse]) -> Figure:
    """Mean entropy of each layer against the training step, one panel a run, one line a layer."""
    figure, axes = _grid(width=3.7, heights=[2.8] * len(courses))
    top = max(course.maximum_nats for course in courses)
    for index, (axis, course) in enumerate(zip(axes, courses, strict=True)):
        values = np.asarray(course.layer_entropy_nats, dtype=float)
        layers = values.shape[1]
        for layer in range(layers):
            axis.plot(course.steps, values[:, layer], color=_layer_colour(layer, layers), linewidth=1.6, label=str(layer))
        axis.axhline(course.maximum_nats, color=INK, linewidth=0.8, linestyle="--")
        axis.annotate(
            "uniform attention",
            (0, course.maximum_nats),
            xycoords=("axes fraction", "data"),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=7,
            color=INK,
        )
        title = course.name
        if course.stopped_at is not None:
            title += f"\nstopped at step {course.stopped_at}"
            axis.axvline(course.stopped_at, color="#b2182b", linewidth=1.4, linestyle=":")
        axis.set_title(title, fontsize=10)
        axis.set_ylim(-0.03 * top, 1.13 * top)
        axis.tick_params(labelsize=8)
        axis.set_xlabel("step", fontsize=9)
        if index % PANELS_ACROSS == 0:
            axis.set_ylabel("mean entropy (nats)", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(
            title="layer",
            title_fontsize=7,
            fontsize=7,
            ncols=math.ceil(layers / 12),
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
            handlelength=1.2,
            labelspacing=0.35,
        )
    return figure


def head_share_figure(shares: Sequence[tuple[str, Sequence[float]]]) -> Figure:
    """Share of heads in each quarter of the largest entropy observed (m), grouped by model.

    Args:
        shares: (name, four shares).
    """
    across = min(len(shares), MODELS_ACROSS)
    rows = [shares[first : first + across] for first in range(0, len(shares), across)]
    figure = Figure(figsize=(max(6.0, 1.8 * across + 0.6), 2.3 * len(rows) + 0.9), dpi=RESOLUTION_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    width = 0.2
    for index, models in enumerate(rows):
        axis = figure.add_subplot(len(rows), 1, index + 1)
        for quarter, (name, colour) in enumerate(zip(RANGE_NAMES, RANGE_COLOURS, strict=True)):
            places = [model + (quarter - 1.5) * width for model in range(len(models))]
            heights = [100 * values[quarter] for _, values in models]
            bars = axis.bar(places, heights, width=0.92 * width, color=colour, edgecolor=INK, linewidth=0.5, label=name)
            axis.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)
        axis.set_xlim(-0.5, across - 0.5)
        axis.set_xticks(range(len(models)), [name for name, _ in models], fontsize=9)
        axis.set_ylim(0, 112)
        axis.set_yticks(range(0, 101, 25))
        axis.set_ylabel("heads (%)", fontsize=9)
        axis.tick_params(axis="y", labelsize=8)
        axis.tick_params(axis="x", length=0)
        axis.spines[["top", "right"]].set_visible(False)
    title = "entropy range, m = largest observed"
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, title=title, title_fontsize=8, fontsize=8, ncols=4, loc="outside upper center", frameon=False)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all; the same figure gives the same bytes.

    Returns: the path.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())
    return path


def _grid(width: float, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """A figure of panels, `PANELS_ACROSS` in a row. Width and heights of the panels are in inches."""
    across = min(len(heights), PANELS_ACROSS)
    rows = [max(heights[i : i + across]) for i in range(0, len(heights), across)]
    figure = Figure(figsize=(across * width + 0.9, sum(rows) + 0.2), dpi=RESOLUTION_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(rows), across, height_ratios=rows)
    return figure, [figure.add_subplot(grid[divmod(index, across)]) for index in range(len(heights))]


def _layer_colour(layer: int, layers: int) -> Any:
    """Dark for the first layer, bright (but not pale) for the deepest."""
    return LINE_COLOURS(0.92 * layer / max(layers - 1, 1))
