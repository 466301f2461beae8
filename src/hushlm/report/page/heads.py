"""What the heads do, step by step: heat maps, the course of the layers, ranges, and shares of overloaded and collapsed heads.

The charts show the last row; the page's script moves them to any other row through `Dynamics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from hushlm.entropy import attainable_maximum_nats
from hushlm.entropy.diagnostics import DISPROPORTIONATE_SHARE, overload_and_collapse_shares
from hushlm.report.page.curves import Curve
from hushlm.report.page.look import HEAT_COLOURS, LAYER_COLOURS, RANGE_COLOURS, chart, plain, run_style, thinned
from hushlm.report.page.run_record import Row, RunRecord

__all__ = ["Dynamics", "dynamics", "extremes", "heat_map", "layer_course", "range_bars"]

RANGE_NAMES = ("0 to m/4", "m/4 to m/2", "m/2 to 3m/4", "3m/4 to m")
MOST_NUMBERS = 80
"""A heat map of more heads has no room for a number in every field."""
_DECIMALS = 4
_VERDICTS = (("overload", "overloaded_layers"), ("collapse", "collapsed_layers"))


@dataclass(frozen=True)
class Dynamics:
    """What the slider moves through, for one run.

    Attributes:
        steps: the steps that are shown; [None] for a measurement.
        heads: for each of them L rows of H head entropies in nats, rounded to 4 decimals.
        ranges: for each of them the share of heads in each quarter of the largest entropy.
        verdicts: for each of them what `summarise` found, in words.
    """

    steps: list[int | None]
    heads: list[list[list[float]]]
    ranges: list[list[float]]
    verdicts: list[dict[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def dynamics(run: RunRecord) -> Dynamics:
    """The rows of a run that have entropies, thinned."""
    rows = thinned(run.observed)
    return Dynamics(
        [row["step"] for row in rows],
        [[[round(nats, _DECIMALS) for nats in heads] for heads in row["head_entropy_nats"]] for row in rows],
        [[round(share, _DECIMALS) for share in row["share_per_range"]] for row in rows],
        [{name: _verdict(row, name, key) for name, key in _VERDICTS} for row in rows],
    )


def heat_map(run: RunRecord, scale_nats: float) -> dict[str, Any]:
    """L x H entropies of the last row, layer 0 at the top.

    Args:
        run: with at least one observed row.
        scale_nats: the end of the colours, one for all runs of the page.
    """
    heads = dynamics(run).heads[-1]
    layers, across = len(heads), len(heads[0])
    largest = attainable_maximum_nats(run.context)
    trace = go.Heatmap(
        z=heads,
        x=list(range(across)),
        y=list(range(layers)),
        zmin=0,
        zmax=scale_nats,
        colorscale=HEAT_COLOURS,
        showscale=False,
        xgap=1,
        ygap=1,
        customdata=shares_of(heads, largest),
        texttemplate="%{z:.2f}" if layers * across <= MOST_NUMBERS else None,
        textfont={"size": 11},
        hovertemplate="layer %{y}, head %{x}<br>%{z:.3f} nats, %{customdata:.0%} of the attainable<extra></extra>",
    )
    ticks = {"tickmode": "linear", "showgrid": False, "ticks": ""}
    return chart(
        [trace],
        height=max(170, min(26 * layers, 520) + 60),
        dragmode=False,
        xaxis={**ticks, "dtick": math.ceil(across / 16), "title": {"text": "head"}},
        yaxis={**ticks, "dtick": math.ceil(layers / 24), "title": {"text": "layer"}, "autorange": "reversed"},
    )


def shares_of(heads: Sequence[Sequence[float]], largest_nats: float) -> list[list[float]]:
    """Entropies as shares of the largest that can be attained."""
    return [[round(nats / largest_nats, _DECIMALS) for nats in row] for row in heads]


def layer_course(run: RunRecord, scale_nats: float) -> dict[str, Any] | None:
    """Mean entropy of every layer against the step, with a line at the slider's step; None for a run of a single row."""
    rows = thinned(run.observed)
    if len(rows) < 2:
        return None
    steps = [row["step"] for row in rows]
    layers = len(rows[0]["layer_entropy_nats"])
    colours = sample_colorscale(list(LAYER_COLOURS), [layer / max(layers - 1, 1) for layer in range(layers)])
    traces: list[Any] = [
        go.Scatter(
            x=steps,
            y=[round(row["layer_entropy_nats"][layer], _DECIMALS) for row in rows],
            name=f"layer {layer}",
            mode="lines",
            line={"color": colours[layer], "width": 1.8},
            hovertemplate=f"layer {layer}<br>step %{{x:,}}: %{{y:.3f}} nats<extra></extra>",
        )
        for layer in range(layers)
    ]
    attainable = attainable_maximum_nats(run.context)
    uniform = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": attainable, "y1": attainable, "line": {"width": 1, "dash": "dash"}}
    cursor = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": steps[-1], "x1": steps[-1], "line": {"width": 1.5}}
    return chart(
        traces,
        height=230,
        xaxis={"title": {"text": "step"}, "range": [0, steps[-1] * 1.02]},
        yaxis={"title": {"text": "nats"}, "range": [-0.03 * scale_nats, 1.08 * scale_nats]},
        shapes=[cursor, uniform],
    )


def range_bars(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The share of heads in each quarter of the run's largest entropy m, a bar for each run, first run at the top."""
    shares = [dynamics(run).ranges[-1] for run in runs]
    places = list(range(len(runs)))
    traces = [
        go.Bar(
            x=[100 * run_shares[quarter] for run_shares in shares],
            y=places,
            customdata=[plain(run.name) for run in runs],
            name=label,
            orientation="h",
            marker={"color": RANGE_COLOURS[quarter]},
            hovertemplate=f"%{{customdata}}<br>{label}: %{{x:.0f}}% of heads<extra></extra>",
        )
        for quarter, label in enumerate(RANGE_NAMES)
    ]
    return chart(
        traces,
        height=34 * len(runs) + 110,
        dragmode=False,
        barmode="stack",
        bargap=0.3,
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        margin={"l": 52, "r": 12, "t": 48, "b": 44},
        xaxis={"title": {"text": "heads (%)"}, "range": [0, 100]},
        yaxis={"tickvals": places, "ticktext": [_short(run.name) for run in runs], "autorange": "reversed", "showgrid": False},
    )


def extremes(runs: Sequence[RunRecord]) -> list[Curve]:
    """Shares of overloaded early heads and of collapsed deep heads against the step, with the line above which it is called so."""
    limit = 100 * DISPROPORTIONATE_SHARE
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": limit, "y1": limit, "line": {"width": 1, "dash": "dash"}}
    axes: dict[str, Any] = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "%"}, "range": [-3, 103]}, "shapes": [line]}
    trained = [(index, run) for index, run in enumerate(runs) if run.end != "measured"]
    if not trained:
        return []
    found = []
    for which, (key, where, title) in enumerate(_EXTREMES):
        traces = [_extreme(index, run, which, where) for index, run in trained]
        found.append(Curve(key, title, "Above the dashed line it gets the name.", chart(traces, height=260, **axes)))
    return found


_EXTREMES = (
    ("overload", "early", "Overload: early heads that attend to all alike"),
    ("collapse", "deep", "Collapse: deep heads that attend to one token"),
)
"""Key, which layers, and heading, in the order of `overload_and_collapse_shares`."""


def _extreme(index: int, run: RunRecord, which: int, where: str) -> go.Scatter:
    rows = thinned(run.observed)
    return go.Scatter(
        x=[row["step"] for row in rows],
        y=[100 * overload_and_collapse_shares(row["head_entropy_nats"], run.context)[which] for row in rows],
        name=plain(run.name),
        mode="lines+markers" if len(rows) <= 30 else "lines",
        line={**run_style(index), "width": 2, "shape": "hv"},
        meta={"run": index},
        hovertemplate=f"%{{fullData.name}}<br>step %{{x:,}}: %{{y:.0f}}% of {where} heads<extra></extra>",
    )


def _verdict(row: Row, kind: str, layers_key: str) -> str:
    layers = row[layers_key]
    if not layers:
        return f"{kind}: {'yes' if row[kind] else 'no'}"
    named = f"layer {layers[0]}" if len(layers) == 1 else f"layers {_ranges(layers)}"
    return f"{kind}: yes, {named}" if row[kind] else f"{kind}: no, but {named}"


def _ranges(layers: Sequence[int]) -> str:
    """[0, 1, 4, 5, 6] as "0, 1, 4-6"."""
    starts = [layer for layer in layers if layer - 1 not in layers]
    ends = [layer for layer in layers if layer + 1 not in layers]
    return ", ".join(str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _short(name: str) -> str:
    return plain(name if len(name) <= 22 else f"{name[:21]}…")
