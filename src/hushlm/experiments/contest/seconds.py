"""The contest in seconds: what its models cost where answers are prepared before there is a prompt. Priced anew, not trained anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.experiments.equivalent import prepared_at
from hushlm.recommended import RECOMMENDED
from hushlm.report.table import Column, Table
from hushlm.shapes import GPT2_SMALL

__all__ = ["PRICED", "in_seconds", "seconds_table", "sizes_cell"]

PRICED = ("points", "grown")
"""The tables of a document whose rows are priced: models that were tuned and measured over seeds."""


def in_seconds(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with `PreparedPrice`'s values in each of its tuned rows, by today's cost model, and the names of today's recommended
    models, whatever stood there before."""
    return {**document, **{name: [_priced(row) for row in document[name]] for name in PRICED if document.get(name)}}


def _priced(row: Mapping[str, Any]) -> dict[str, Any]:
    price = prepared_at(parse(row["architecture"]), ModelShape(**row["gpt2_small"])).to_dict()
    return {name: value for name, value in row.items() if name not in price} | {"name": _recommended(row)} | price


def _recommended(row: Mapping[str, Any]) -> str:
    """The name of the recommended model that a row is, by its sizes at GPT-2 small's scale and its training; "" if it is none."""
    for point in RECOMMENDED.values():
        same = point.architecture == row["architecture"] and point.shape == replace(GPT2_SMALL, **row["gpt2_small"])
        if same and dict(point.training).items() <= row["changes"].items():
            return point.name
    return ""


def seconds_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """The priced rows, quickest first token over a LAN first.

    Args:
        rows: as `in_seconds` leaves them.
        names: what each is called.
    """
    columns = (
        Column("name", "model"),
        Column("sizes", "L/H/D/F\nat GPT-2 small"),
        Column("relative", "to the\nbaseline", ".3f", "right"),
        Column("today", "not prepared:\ns LAN", ".0f", "right"),
        Column("offline_cpu", "before:\nCPU s", ".0f", "right"),
        Column("offline", "before:\nGB", ".2f", "right"),
        Column("online", "first token:\nMB", ".0f", "right"),
        Column("lan", "first token:\ns LAN", ".0f", "right"),
        Column("wan", "first token:\ns WAN", ".0f", "right"),
        Column("further_lan", "further\ntoken: s LAN", ".1f", "right"),
        Column("further_wan", "further\ntoken: s WAN", ".0f", "right"),
    )
    cells = [
        {
            "name": name,
            "sizes": sizes_cell(row["gpt2_small"]),
            "relative": row["relative_to_baseline"],
            "today": row["today_seconds_lan"],
            "offline_cpu": row["offline_cpu_seconds"],
            "offline": row["offline_bytes"] / 1e9,
            "online": row["online_bytes"] / 1e6,
            "lan": row["online_seconds_lan"],
            "wan": row["online_seconds_wan"],
            "further_lan": row["further_seconds_lan"],
            "further_wan": row["further_seconds_wan"],
        }
        for name, row in zip(names, rows, strict=True)
    ]
    note = (
        "All predicted (`hushlm cost ARCHITECTURE`), for two cores that both parties share and 127 tokens of prompt. LAN is 1 Gbps and "
        "0.5 ms, WAN 100 Mbps and 80 ms. Before: the material of one answer, in a batch of eight. A session's set-up is left out."
    )
    return Table("In seconds", columns, sorted(cells, key=lambda cell: cell["lan"]), note)


def sizes_cell(shape: Mapping[str, Any]) -> str:
    """Layers, heads, width and FFN width of a shape in a document."""
    return f"{shape['layers']}/{shape['heads']}/{shape['width']}/{shape['width'] * shape['ffn_multiple']}"
