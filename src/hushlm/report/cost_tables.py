"""Tables of prices: the same columns on the terminal and in docs/cost.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hushlm.report.table import Column, Table

__all__ = [
    "AMOUNT",
    "against_table",
    "amounts_table",
    "answers_table",
    "frontier_table",
    "gigabytes",
    "latency_table",
    "measured_table",
    "megabytes",
    "residuals_table",
    "shapes_table",
    "sizes_table",
]

Rows = Sequence[Mapping[str, Any]]


def megabytes(count: float) -> str:
    """A number of bytes in MB, 10^6 bytes."""
    return f"{count / 1e6:,.2f}"


def gigabytes(count: float) -> str:
    """A number of bytes in GB, 10^9 bytes."""
    return f"{count / 1e9:,.2f}"


def _millions(count: float) -> str:
    return f"{count / 1e6:,.1f}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f}"


AMOUNT = (
    Column("bytes", "MB", megabytes, "right"),
    Column("client_to_server_bytes", "client to server", megabytes, "right"),
    Column("server_to_client_bytes", "server to client", megabytes, "right"),
    Column("messages", "messages", ",", "right"),
    Column("rounds", "round trips", ",.0f", "right"),
    Column("cpu_seconds", "CPU s", ",.1f", "right"),
    Column("seconds", "s", ",.1f", "right"),
)
"""The columns of an `Amount`."""


def amounts_table(title: str, label: str, amounts: Mapping[Any, Mapping[str, Any]], note: str = "") -> Table:
    """A table with a row for each amount.

    Args:
        title: the table's title.
        label: the heading above the amounts' names.
        amounts: each amount as `Amount.to_dict()` gives it, by its name.
        note: the text below the table.
    """
    return Table(title, (Column("of", label), *AMOUNT), [{"of": name, **amount} for name, amount in amounts.items()], note)


def against_table(rows: Rows, note: str = "") -> Table:
    """The table of published costs and ours; its rows are those of `cost.against`."""
    columns = (
        Column("table", "table"),
        Column("architecture", "architecture"),
        Column("layers", "L", align="right"),
        Column("context", "T", align="right"),
        Column("nonlinear_operations", "nonlinear operations", "\n".join),
        Column("published_ffn_gflops", "FFN GFLOP,\npublished", ".1f", "right"),
        Column("ffn_gflops", "ours", ".2f", "right"),
        Column("published_attn_gflops", "attention GFLOP,\npublished", ".1f", "right"),
        Column("attn_gflops", "ours", ".2f", "right"),
        Column("published_bytes", "GB,\npublished", gigabytes, "right"),
        Column("bytes_as_published_forms", "GB, its forms\non our engine", gigabytes, "right"),
        Column("bytes", "GB,\nHush", gigabytes, "right"),
        Column("ratio", "Hush /\npublished", ".2f", "right"),
    )
    flat = [{**row, **{f"published_{name}": value for name, value in row["published"].items()}} for row in rows]
    return Table("Private inference of one token: published and ours", columns, flat, note)


def sizes_table(name: str, rows: Rows) -> Table:
    """The table of `growth_by_size` for an architecture of this name."""
    size = (Column("size", "size"), Column("value", "value", ",", "right"))
    return Table(f"{name}: one token, one size changed at a time", (*size, *AMOUNT), rows)


def answers_table(name: str, prompt: int, rows: Rows) -> Table:
    """The table of `growth_by_tokens` after a prompt of so many tokens."""
    columns = (
        Column("new_tokens", "new tokens", ",", "right"),
        Column("bytes", "MB, keys and values kept", megabytes, "right"),
        Column("bytes_without_cache", "MB, a whole pass each", megabytes, "right"),
        Column("seconds", "s, kept", ",.0f", "right"),
        Column("seconds_without_cache", "s, whole", ",.0f", "right"),
    )
    return Table(f"{name}: an answer to {prompt} tokens", columns, rows)


def shapes_table(name: str, rows: Rows) -> Table:
    """The table of `growth_of_shapes`."""
    columns = (
        Column("shape", "shape"),
        Column("context", "T", ",", "right"),
        Column("bytes", "first token, GB", gigabytes, "right"),
        Column("further_token_bytes", "further token, MB", megabytes, "right"),
        Column("seconds", "first, s", ",.0f", "right"),
        Column("further_token_seconds", "further, s", ",.0f", "right"),
        Column("server_peak_bytes", "server GB", gigabytes, "right"),
    )
    return Table(f"{name}: known shapes, on paper", columns, rows)


def residuals_table(title: str, rows: Rows) -> Table:
    """The table of small runs that were counted: `Residual`s as dictionaries, with their relative difference."""
    columns = (
        Column("case", "micro-run"),
        Column("counted_bytes", "counted bytes", ",.0f", "right"),
        Column("predicted_bytes", "predicted", ",.0f", "right"),
        Column("relative", "difference", "+.3%", "right"),
        Column("counted_seconds", "ms", _milliseconds, "right"),
        Column("predicted_seconds", "predicted", _milliseconds, "right"),
    )
    return Table(title, columns, rows)


def frontier_table(title: str, rows: Rows, note: str = "") -> Table:
    """The table of `cost.budget` candidates as dictionaries, with what a further token moves."""
    columns = (
        Column("architecture", "architecture"),
        Column("layers", "L", align="right"),
        Column("heads", "H", align="right"),
        Column("width", "D", align="right"),
        Column("parameters", "parameters,\nmillions", _millions, "right"),
        Column("flops", "GFLOP", lambda count: f"{count / 1e9:,.1f}", "right"),
        Column("bytes", "GB", gigabytes, "right"),
        Column("messages", "messages", ",", "right"),
        Column("rounds", "round trips", ",.0f", "right"),
        Column("seconds", "s", ",.0f", "right"),
        Column("further_token_bytes", "further token,\nMB", megabytes, "right"),
    )
    return Table(title, columns, rows, note)


def latency_table(title: str, rows: Rows) -> Table:
    """Rows of results/latency.json: passes over a relay, predicted and measured."""
    columns = (
        Column("architecture", "architecture"),
        Column("network", "network"),
        Column("measured_round_trip_seconds", "measured RTT, ms", lambda seconds: f"{seconds * 1e3:.2f}", "right"),
        Column("measured_bits_per_second", "measured Mbps", lambda rate: f"{rate / 1e6:.0f}", "right"),
        Column("measured_seconds", "measured s", ".2f", "right"),
        Column("predicted_seconds", "predicted s", ".2f", "right"),
        Column("error", "difference", "+.0%", "right"),
        Column("local_seconds", "no network, measured s", ".2f", "right"),
        Column("predicted_local_seconds", "predicted s", ".2f", "right"),
        Column("predicted_on_local_seconds", "with the measured, s", ".2f", "right"),
        Column("error_on_local", "difference", "+.0%", "right"),
        Column("load_average", "load", ".1f", "right"),
    )
    return Table(title, columns, rows)


def measured_table(title: str, rows: Rows) -> Table:
    """Measured models as dictionaries, with their predicted bytes."""
    columns = (
        Column("architecture", "architecture"),
        Column("perplexity", "perplexity", ".3f", "right"),
        Column("seeds", "seeds", align="right"),
        Column("bytes", "MB", megabytes, "right"),
        Column("on_front", "Pareto front", lambda found: "yes" if found else ""),
        Column("source", "measured by"),
    )
    return Table(title, columns, rows)
