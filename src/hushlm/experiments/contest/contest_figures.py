"""The contest's figures: perplexity against bytes and seconds, and learning rate against depth. Colours are those of `report.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from hushlm.report.figures import COLOURS, INK, RANGE_COLOURS, RESOLUTION_DPI

__all__ = ["ContestPoint", "StabilityMap", "contest_figure", "seconds_figure", "stability_figure"]


LINES = 34
"""So many lines of labels fit into the height of a figure."""


@dataclass(frozen=True)
class ContestPoint:
    """One model of the contest.

    Attributes:
        name: what is shown beside the mark; "" for nothing.
        gigabytes: what a private token takes at GPT-2 small's scale, in 10^9 bytes.
        relative: the perplexity over the baseline's, for each seed.
    """

    name: str
    gigabytes: float
    relative: Sequence[float]


def contest_figure(
    ours: Sequence[ContestPoint], published: Sequence[ContestPoint], budgets: Sequence[tuple[float, float]], title: str
) -> Figure:
    """Perplexity over the baseline's against bytes, on a logarithmic axis. Bars reach from the best to the worst seed.

    Args:
        ours: the models measured here.
        published: published models with one value each, relative to their own baseline. They are drawn hollow, because they were measured
            at another scale and on another corpus.
        budgets: targets as (gigabytes, relative perplexity), drawn as corners to stay below and left of.
        title: the title of the axis of perplexities.
    """
    figure, axis = _beside_the_baseline(title)
    for gigabytes, relative in budgets:
        axis.plot([0.5, gigabytes, gigabytes], [relative, relative, 0.8], color=RANGE_COLOURS[1], linewidth=0.7, linestyle=":")
    for point in published:
        axis.plot(point.gigabytes, point.relative[0], "D", markerfacecolor="white", markeredgecolor=RANGE_COLOURS[1], markersize=6)
    for point in ours:
        mean = float(np.mean(point.relative))
        reach = [[mean - min(point.relative)], [max(point.relative) - mean]]
        axis.errorbar(point.gigabytes, mean, yerr=reach, fmt="o", color=RANGE_COLOURS[0], markersize=5, capsize=2.5, linewidth=1)
    values = [value for point in (*ours, *published) for value in point.relative]
    bottom, top = axis.set_ylim(min(*values, 0.95) - 0.03, max(*values, 1.1) + 0.06)
    for points, offset in ((ours, 6), (published, -11)):
        named = sorted((float(np.mean(point.relative)), point.gigabytes, point.name) for point in points if point.name)
        for (_, gigabytes, name), height in zip(named, _apart([mean for mean, _, _ in named], (top - bottom) / LINES), strict=True):
            axis.annotate(name, (gigabytes, height), xytext=(6, offset), textcoords="offset points", fontsize=7.5)
    axis.set_xlim(0.5, 40)
    ticks = (0.5, 1, 2, 4, 8, 16, 32)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("GB of one private token, GPT-2 small's scale, T=128, both directions", fontsize=9)
    handles = [
        axis.plot([], [], "o", color=RANGE_COLOURS[0], label="measured here, bars: seeds")[0],
        axis.plot([], [], "D", markerfacecolor="white", markeredgecolor=RANGE_COLOURS[1], label="published, own baseline and corpus")[0],
    ]
    axis.legend(handles=handles, fontsize=7.5, frameon=False, loc="upper right")
    return figure


def seconds_figure(names: Sequence[str], relative: Sequence[float], seconds: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Perplexity over the baseline's against the seconds of a first token, on a logarithmic axis, a mark for each way to answer.

    Args:
        names: what is shown beside each model's slowest mark; "" for nothing.
        relative: each model's mean perplexity over the baseline's.
        seconds: each model's seconds, by the way to answer.
        title: the title of the axis of perplexities.
    """
    figure, axis = _beside_the_baseline(title)
    for each in zip(relative, *seconds.values(), strict=True):
        axis.plot(each[1:], [each[0]] * len(seconds), color=INK, linewidth=0.4, alpha=0.4)
    for (way, values), marker, colour in zip(seconds.items(), ("D", "s", "o"), (INK, RANGE_COLOURS[1], RANGE_COLOURS[0]), strict=True):
        inside = colour if marker == "o" else "white"
        axis.plot(values, relative, marker, color=colour, markerfacecolor=inside, markersize=5, label=way)
    low, high = (limit(value for values in seconds.values() for value in values) for limit in (min, max))
    axis.set_xlim(low / 1.5, high * 4)
    bottom, top = axis.set_ylim(min(*relative, 0.95) - 0.03, max(*relative, 1.1) + 0.06)
    slowest = map(max, zip(*seconds.values(), strict=True))
    named = [(value, at, name) for name, value, at in zip(names, relative, slowest, strict=True) if name]
    line = (top - bottom) / LINES
    for (_, at, name), height in zip(sorted(named), _apart(sorted(value for value, _, _ in named), line), strict=True):
        axis.annotate(name, (at, height), xytext=(6, -3), textcoords="offset points", fontsize=7.5)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("seconds of the first token, GPT-2 small's scale, 127 tokens of prompt, two cores, predicted", fontsize=9)
    axis.legend(fontsize=7.5, frameon=False, loc="center")
    return figure


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """Rising heights of labels, moved up where one would lie on the one below it."""
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + least) if found else height)
    return found


def _beside_the_baseline(title: str) -> tuple[Figure, Axes]:
    """A figure whose vertical axis is perplexity over the baseline's, with a line at 1, and whose horizontal one is logarithmic."""
    figure = Figure(figsize=(6.6, 4.2), dpi=RESOLUTION_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    axis.set_xscale("log")
    axis.axhline(1.0, color=INK, linewidth=0.8, linestyle="--")
    axis.set_ylabel(title, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


@dataclass(frozen=True)
class StabilityMap:
    """One model at several depths and learning rates.

    Attributes:
        name: what the model is called.
        layers, rates: the depth of each row and the learning rate of each column, both rising.
        perplexity: a number for each depth and rate; NaN where training was stopped, infinite where nothing was run.
    """

    name: str
    layers: Sequence[int]
    rates: Sequence[float]
    perplexity: Sequence[Sequence[float]]


def stability_figure(maps: Sequence[StabilityMap]) -> Figure:
    """A panel for each model, with perplexity as a colour and a number, and a cross where training was stopped."""
    figure = Figure(figsize=(2.1 * len(maps) + 0.8, 2.5), dpi=RESOLUTION_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(np.asarray(figure.subplots(1, len(maps), sharey=True)))
    tables = [np.asarray(each.perplexity, dtype=float) for each in maps]
    finite = np.concatenate([table[np.isfinite(table)] for table in tables])
    low, high = (finite.min(), finite.max()) if len(finite) else (1.0, 2.0)
    for axis, each, table in zip(axes, maps, tables, strict=True):
        shown = np.where(np.isfinite(table), table, np.nan)
        image = axis.imshow(shown, cmap=COLOURS, norm=LogNorm(low, high), aspect="auto")
        for (row, column), value in np.ndenumerate(table):
            dark = np.isfinite(value) and value < np.sqrt(low * high)
            text = "x" if np.isnan(value) else "" if np.isinf(value) else f"{value:.1f}" if value < 100 else f"{value:.0f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else INK)
        axis.set_title(each.name, fontsize=9)
        axis.set_xticks(range(len(each.rates)), [f"{rate:g}" for rate in each.rates], fontsize=8)
        axis.set_yticks(range(len(each.layers)), [str(layers) for layers in each.layers], fontsize=8)
        axis.tick_params(length=0)
        axis.set_xlabel("learning rate", fontsize=8)
    axes[0].set_ylabel("layers", fontsize=8)
    scale = figure.colorbar(image, ax=list(axes), shrink=0.9, ticks=np.geomspace(low, high, 3), format="%.3g")
    scale.minorticks_off()
    scale.ax.tick_params(labelsize=7)
    return figure
