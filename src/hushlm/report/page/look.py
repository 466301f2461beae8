"""How every chart of the page looks: colours of runs and scales, and a layout without a theme, which the page's script adds.

Source of the colours: Okabe and Ito's palette for colour-blind readers, without its yellow and black, which vanish on one of the two
backgrounds. Heat maps use cividis, as the PNG figures do.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, TypeVar

import plotly.graph_objects as go

__all__ = ["HEAT_COLOURS", "LAYER_COLOURS", "MOST_POINTS", "RANGE_COLOURS", "chart", "plain", "run_style", "thinned"]

T = TypeVar("T")

RUN_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
DASHES = ("solid", "dash", "dot", "dashdot")
"""Runs beyond the colours take the same ones again, dashed."""

HEAT_COLOURS = "Cividis"
LAYER_COLOURS = ("#3b78d8", "#a05fb5", "#d55e00")
"""From the first layer to the deepest; each can be seen on white and on black."""
RANGE_COLOURS = ("#2c4a7c", "#7c7b78", "#b9ac70", "#f5d552")
"""The four entropy ranges, from dark to bright like the heat map."""

MOST_POINTS = 400
"""Of a longer run, this many rows are shown: a slider and a curve have no more places, and the file stays small."""


def run_style(index: int) -> dict[str, str]:
    """Colour and dash of the run with this number."""
    turns, place = divmod(index, len(RUN_COLOURS))
    return {"color": RUN_COLOURS[place], "dash": DASHES[turns % len(DASHES)]}


def plain(text: str) -> str:
    """A text as plotly shows it unchanged: it reads a few tags of HTML, and a run may be called `<b>`."""
    return html.escape(text, quote=False)


def thinned(rows: Sequence[T]) -> Sequence[T]:
    """At most `MOST_POINTS` of them, evenly spaced, the first and the last included."""
    if len(rows) <= MOST_POINTS:
        return rows
    return [rows[round(place * (len(rows) - 1) / (MOST_POINTS - 1))] for place in range(MOST_POINTS)]


def chart(traces: Sequence[Any], *, height: int, **layout: Any) -> dict[str, Any]:
    """A figure as plain JSON values.

    Args:
        traces: what it draws.
        height: in pixels; the width follows the window.
        layout: plotly's own names, with underscores.
    """
    base = {
        "height": height,
        "margin": {"l": 52, "r": 12, "t": 12, "b": 44},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "hoverlabel": {"namelength": -1},
        "template": go.layout.Template(),
    }
    figure = go.Figure(traces, layout=base).update_layout(**layout)
    figure.update_xaxes(zeroline=False, automargin=True).update_yaxes(zeroline=False, automargin=True)
    found: dict[str, Any] = figure.to_plotly_json()
    return {"data": found["data"], "layout": found["layout"]}
