"""What a private pass of each run's model would move: the table of prices, and bytes by layer and operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from hushlm.architectures import parse
from hushlm.cost import CostReport, Network, nonlinear_operations, price
from hushlm.plan import prefill_plan
from hushlm.report.page.look import chart
from hushlm.report.page.run_record import RunRecord
from hushlm.report.table import Column, Table

__all__ = ["layer_bytes", "price_run", "price_table"]

_OPERATION_COLOURS = {
    "project": "#0072b2",
    "kernel": "#d55e00",
    "normalise": "#cc79a7",
    "activate": "#e69f00",
    "scores": "#56b4e9",
    "mix": "#009e73",
    "embed": "#8c6bb1",
    "reveal": "#7f7f7f",
}
_OTHER_COLOUR = "#b0a8a0"


def price_run(run: RunRecord, network: Network) -> CostReport | None:
    """The price of a private pass over a full context that reveals the next token; None for a measurement, which names no sizes."""
    if run.shape is None:
        return None
    return price(prefill_plan(parse(run.architecture), run.shape, run.context), network=network)


def price_table(runs: Sequence[RunRecord], prices: Sequence[CostReport | None], network: Network) -> Table:
    """A row for each run that has a price."""

    def megabytes(count: float) -> str:
        return f"{count / 1e6:,.1f}"

    columns = (
        Column("run", "run"),
        Column("bytes", "MB", megabytes, "right"),
        Column("client_to_server_bytes", "client to server, MB", megabytes, "right"),
        Column("server_to_client_bytes", "server to client, MB", megabytes, "right"),
        Column("messages", "messages", ",", "right"),
        Column("rounds", "round trips", ",.0f", "right"),
        Column("cpu_seconds", "CPU s", ",.1f", "right"),
        Column("seconds", "seconds", ",.1f", "right"),
        Column("operations", "nonlinear operations", "; ".join),
    )
    rows = [
        {"run": run.name, **found.total.to_dict(), "operations": _operations(run)}
        for run, found in zip(runs, prices, strict=True)
        if found is not None
    ]
    note = (
        f"Predicted, not counted: one private pass over a full context that reveals the next token. Seconds on {network}; bytes are "
        "payload of the engine's link, 1 MB = 10^6 bytes, and framing adds about 3%. CPU seconds are those of both parties."
    )
    return Table("What a private answer's first token would cost", columns, rows, note)


def layer_bytes(found: CostReport, top_megabytes: float) -> dict[str, Any]:
    """Predicted bytes of every layer, stacked by operation; "outside" is embedding, final normalisation, head and answer.

    Args:
        found: the price of a pass.
        top_megabytes: the end of the axis, one for all runs of the page.
    """
    layers = list(found.by_layer)
    sums: dict[str, dict[int | None, int]] = {}
    for step in found.steps:
        of_layer = sums.setdefault(step.operation, {})
        of_layer[step.step.layer] = of_layer.get(step.step.layer, 0) + step.amount.bytes
    labels = ["outside" if layer is None else str(layer) for layer in layers]
    traces = [
        go.Bar(
            x=[round(of_layer.get(layer, 0) / 1e6, 3) for layer in layers],
            y=labels,
            name=operation,
            orientation="h",
            marker={"color": _OPERATION_COLOURS.get(operation, _OTHER_COLOUR)},
            hovertemplate=f"layer %{{y}}, {operation}<br>%{{x:,.2f}} MB<extra></extra>",
        )
        for operation, of_layer in sorted(sums.items(), key=lambda item: -sum(item[1].values()))
    ]
    return chart(
        traces,
        height=max(190, 22 * len(layers) + 120),
        dragmode=False,
        barmode="stack",
        bargap=0.25,
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 11}, "traceorder": "normal"},
        margin={"l": 52, "r": 12, "t": 60, "b": 44},
        xaxis={"title": {"text": "MB, predicted"}, "range": [0, 1.04 * top_megabytes]},
        yaxis={"type": "category", "autorange": "reversed", "showgrid": False},
    )


def _operations(run: RunRecord) -> list[str]:
    assert run.shape is not None  # it has a price
    return [str(operation) for operation in nonlinear_operations(parse(run.architecture), run.shape)]
