"""Figures that compare rows over seeds: perplexities, and shares of heads against a setting. Colours are those of `report.figures`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hushlm.report.figures import INK, RANGE_COLOURS, RESOLUTION_DPI

__all__ = ["seed_perplexity_figure", "top_share_figure"]

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""The marks of seeds, in their order."""


def seed_perplexity_figure(rows: Sequence[tuple[str, Sequence[float]]]) -> Figure:
    """The perplexity of each row: a mark for each seed on a bar of their mean, and a line at the first row's mean to compare with.

    Args:
        rows: (name, perplexity by seed) of each, with at least one seed.
    """
    figure = Figure(figsize=(6.2, 0.34 * len(rows) + 1.0), dpi=RESOLUTION_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    places = list(range(len(rows)))[::-1]
    means = [statistics.mean(values) for _, values in rows]
    every = [value for _, values in rows for value in values]
    low = min(every) - 0.15 * (max(every) - min(every) or 1.0)
    axis.barh(places, [mean - low for mean in means], left=low, height=0.6, color=RANGE_COLOURS[2], edgecolor=INK, linewidth=0.5)
    for place, mean, (_, values) in zip(places, means, rows, strict=True):
        axis.annotate(f"{mean:.2f}", (max(values), place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8)
        for marker, value in zip(MARKERS, values, strict=False):
            axis.plot(value, place, marker, color=RANGE_COLOURS[0], markersize=4)
    axis.axvline(means[0], color=INK, linewidth=0.8, linestyle="--")
    axis.set_yticks(places, [name for name, _ in rows], fontsize=8)
    axis.set_xlim(low, max(every) + 0.18 * (max(every) - low))
    axis.set_xlabel("perplexity (marks: seeds; axis does not start at 0)", fontsize=9)
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def top_share_figure(points: Sequence[tuple[float, Sequence[float]]]) -> Figure:
    """The share of heads near uniform attention against the regulariser's tolerance gamma. Marks are seeds, the line is their mean.

    Args:
        points: (gamma, share by seed), from the smallest gamma to the largest.
    """
    figure = Figure(figsize=(4.6, 2.9), dpi=RESOLUTION_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    gammas = [gamma for gamma, _ in points]
    axis.plot(gammas, [100 * statistics.mean(shares) for _, shares in points], color=RANGE_COLOURS[1], linewidth=1.6)
    for gamma, shares in points:
        for marker, share in zip(MARKERS, shares, strict=False):
            axis.plot(gamma, 100 * share, marker, color=RANGE_COLOURS[0], markersize=4)
    axis.set_xlabel("tolerance gamma (share of log T)", fontsize=9)
    axis.set_ylabel("heads at 3/4 of the attainable\nentropy or above (%)", fontsize=9)
    axis.set_ylim(bottom=0)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
