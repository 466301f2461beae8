"""Training curves: every number of metrics.jsonl that is one for the whole model, all runs in one chart each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from hushlm.report.page.look import chart, plain, run_style, thinned
from hushlm.report.page.run_record import Row, RunRecord

__all__ = ["Curve", "curves"]


@dataclass(frozen=True)
class Curve:
    """One chart.

    Attributes:
        key: what the page's elements are named after.
        title, note: heading, and what a reader has to know; note is "" where the heading is enough.
        figure: plotly's data and layout.
    """

    key: str
    title: str
    note: str
    figure: dict[str, Any]


def curves(runs: Sequence[RunRecord]) -> list[Curve]:
    """The charts for which any run has numbers."""
    found = []
    uniform = [math.log(run.shape.vocabulary) for run in runs if run.shape is not None]
    for key, title, unit, value, logarithmic in _CHARTS:
        traces = [trace for index, run in enumerate(runs) if (trace := _line(index, run, key, unit, value)) is not None]
        if not traces:
            continue
        axis: dict[str, Any] = {"title": {"text": unit}, "type": "log" if logarithmic else "linear"}
        note = ""
        if key == "loss":
            lowest = min(min(trace.y) for trace in traces)
            top = 1.05 * max(uniform)
            note = "Before each update, on its batch."
            if max(max(trace.y) for trace in traces) > top:
                note += " The axis ends where even guessing lies (ln V); a run above it has lost what it learned. Double-click to see all."
            axis["range"] = [lowest - 0.05 * (top - lowest), top]
        found.append(Curve(key, title, note, chart(traces, height=300, xaxis={"title": {"text": "step"}}, yaxis=axis)))
    return found


def _line(index: int, run: RunRecord, key: str, unit: str, value: Callable[[Row], float | None]) -> go.Scatter | None:
    pairs = [(row["step"], number) for row in run.rows if row["step"] is not None and (number := value(row)) is not None]
    if not pairs:
        return None
    steps, numbers = zip(*thinned(pairs), strict=True)
    return go.Scatter(
        x=list(steps),
        y=list(numbers),
        name=plain(run.name),
        mode="lines+markers" if len(steps) <= 30 else "lines",
        line={**run_style(index), "width": 2},
        marker={"size": 6},
        meta={"run": index},
        hovertemplate=f"%{{fullData.name}}<br>step %{{x:,}}: %{{y:.4~g}} {unit}<extra></extra>",
    )


def _plain(key: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(key)


def _penalty(row: Row) -> float | None:
    return row.get("penalty") if row.get("regulariser_weight") else None


def _mean_of(key: str) -> Callable[[Row], float | None]:
    return lambda row: (row.get(key) or {}).get("mean")


_CHARTS: tuple[tuple[str, str, str, Callable[[Row], float | None], bool], ...] = (
    ("loss", "Training loss", "nats a token", _plain("loss"), False),
    ("validation_perplexity", "Validation perplexity", "per token", _plain("validation_perplexity"), True),
    ("gradient_norm", "Gradient norm, before clipping", "norm", _plain("gradient_norm"), True),
    ("learning_rate", "Learning rate", "", _plain("learning_rate"), False),
    ("teacher_loss", "Divergence from the teacher", "nats a token", _plain("teacher_loss"), False),
    ("penalty", "Entropy penalty, while it has a weight", "", _penalty, False),
    ("temperature", "Learned temperature, mean over heads", "", _mean_of("temperature"), False),
    ("threshold", "Learned entropy threshold, mean over heads", "share of ln T", _mean_of("threshold"), False),
)
"""Key, title, unit, where a row has the number, and whether its axis is logarithmic."""
