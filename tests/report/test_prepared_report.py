"""Whole runs beside their prices: each row is compared with the forms of the network that it was answered over."""

from __future__ import annotations

from typing import Any

import pytest

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.cost import LAN, WAN
from hushlm.cost.prepared import price_prepared, price_prepared_passes
from hushlm.plan.needs import NEEDS_FORMAT
from hushlm.report.prepared_report import checked_rows, checked_table

ARCHITECTURE = "SM2+LN+R"
SHAPE = ModelShape(layers=2, heads=2, width=64, context=96, vocabulary=128)
TOKENS, NEW_TOKENS = 64, 2


def run() -> list[dict[str, Any]]:
    """The rows that `benchmarks/prepared.py` would write if everything were as predicted."""
    architecture, prompt = parse(ARCHITECTURE), TOKENS - NEW_TOKENS + 1
    made = price_prepared(architecture, SHAPE, prompt, NEW_TOKENS, network=LAN, answers=2).offline
    amounts = [("set-up", "loopback", made), ("offline", "loopback", made)]
    for network in (LAN, WAN):
        passes = price_prepared_passes(architecture, SHAPE, prompt, NEW_TOKENS, network=LAN, forms=network, transfers="ferret", threads=2)
        amounts += [(f"online, token {index + 1}", network.name, each.total) for index, each in enumerate(passes)]
    always = {
        "model": "M",
        "tokens": TOKENS,
        "architecture": ARCHITECTURE,
        "shape": SHAPE.to_dict(),
        "answers": 2,
        "load": 0.5,
        "format": NEEDS_FORMAT,
    }
    return [
        always | {"phase": phase, "network": name, "bytes": each.bytes, "messages": each.messages, "cpu_seconds": each.cpu_seconds}
        for phase, name, each in amounts
    ]


def test_rows_as_predicted_differ_in_nothing() -> None:
    found = checked_rows(run())
    assert [(row["phase"], row["network"]) for row in found] == [
        ("offline", "loopback"),
        *((f"online, token {index}", name) for name in ("lan", "wan") for index in (1, 2)),
    ]
    assert all(row["error"] == pytest.approx(0) and row["cpu_error"] == pytest.approx(0) for row in found)
    assert found[3]["bytes"] > found[1]["bytes"], "over a WAN more bytes for fewer round trips"
    assert found[3]["messages"] < found[1]["messages"]
    assert "| wan |" in checked_table(found).to_markdown()


def test_a_row_that_differs_says_by_how_much_and_a_run_without_an_answer_says_nothing() -> None:
    rows = run()
    rows[2]["bytes"] *= 2
    assert checked_rows(rows)[1]["error"] == pytest.approx(-0.5)
    assert checked_rows(rows[:2]) == []
    assert checked_rows([row | {"format": NEEDS_FORMAT - 1} for row in rows]) == [], "of an earlier form nothing is predicted"
