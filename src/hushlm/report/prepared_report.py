"""Today's pass and prepared answers side by side: phase by phase, over a local and a wide-area network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.cost.generation import GenerationCost
from hushlm.cost.network import LAN, WAN
from hushlm.cost.prepared.price import PreparedCost, price_prepared, price_prepared_passes
from hushlm.cost.pricing import Amount, CostReport, amounts_together
from hushlm.plan import ProtocolSettings
from hushlm.plan.needs import NEEDS_FORMAT
from hushlm.report.cost_tables import gigabytes, megabytes
from hushlm.report.table import Column, Table

__all__ = ["FORMS", "checked_rows", "checked_table", "phase_rows", "phases_table", "records_table"]

ONLINE = "online, token "
"""Before the number of a token, what a row of `benchmarks/prepared.py` is called."""

FORMS = {"loopback": None, LAN.name: LAN, WAN.name: WAN}
"""By which network the forms of an answer are chosen, by the name that such a row has; on loopback those with the fewest bytes."""


def phase_rows(today: GenerationCost, prepared: PreparedCost, by_network: Mapping[str, Sequence[CostReport]]) -> list[dict[str, Any]]:
    """One row a phase, as plain JSON values; of an answer of several tokens the whole of it, and its first and last token.

    Args:
        by_network: the passes of the prepared answer in the forms that a network's name stands for (`ask --network NAME`); those that
            are the forms with the fewest bytes have no rows of their own.
    """
    tokens = len(today.passes)
    phases: list[tuple[str, Amount]] = [("today, first token", today.passes[0].total)]
    if tokens > 1:
        phases += [("today, last further token", today.passes[-1].total), (f"today, {tokens} tokens", today.total)]
    phases.append(("offline, an answer", prepared.offline))
    for name, passes in {"": prepared.passes, **by_network}.items():
        totals = [report.total for report in passes]
        if name and [total.bytes for total in totals] == [report.total.bytes for report in prepared.passes]:
            continue
        asked = f", --network {name}" if name else ""
        phases += [(f"set-up to answer{asked}", passes[0].set_up), (f"online, first token{asked}", totals[0])]
        if tokens > 1:
            phases += [
                (f"online, last further token{asked}", totals[-1]),
                (f"online, {tokens} tokens{asked}", amounts_together(totals)),
            ]
    return [_row(phase, amount) for phase, amount in phases]


def _row(phase: str, amount: Amount) -> dict[str, Any]:
    return {
        "phase": phase,
        "bytes": amount.bytes,
        "messages": amount.messages,
        "rounds": amount.rounds,
        "cpu_seconds": amount.cpu_seconds,
        **{f"seconds_{link.name}": link.seconds_of(amount.bytes, amount.rounds, amount.compute_seconds) for link in (LAN, WAN)},
    }


def phases_table(rows: Sequence[Mapping[str, Any]], prepared: PreparedCost) -> Table:
    """The table of `phase_rows`."""
    columns = (
        Column("phase", ""),
        Column("bytes", "MB", megabytes, "right"),
        Column("messages", "messages", ",", "right"),
        Column("rounds", "round trips", ",.0f", "right"),
        Column("cpu_seconds", "CPU s", ",.1f", "right"),
        Column("seconds_lan", f"s, {LAN}", ",.1f", "right"),
        Column("seconds_wan", f"s, {WAN}", ",.1f", "right"),
    )
    note = (
        f"Offline: made before there is a prompt, for prompts of up to {prepared.prompt_bucket} tokens, {prepared.answers} answers "
        f"together. Until the answer the client keeps {megabytes(prepared.kept_client_bytes)} MB of it and the server "
        f"{megabytes(prepared.kept_server_bytes)} MB. Set-up to prepare: {megabytes(prepared.set_up_preparing.bytes)} MB. "
        f"Rows without a network are in the forms with the fewest bytes. "
        f"Online seconds were fitted on {prepared.measured}."
    )
    return Table("Prepared answers beside today's pass", columns, rows, note)


def checked_rows(counted: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Phases of whole runs, as `benchmarks/prepared.py` keeps them, beside what the cost room says of them.

    Runs of an earlier `NEEDS_FORMAT` are left out. Seconds are those of CPUs of both parties; of an answer that compiled its programs
    ("cold") they are not predicted with it.
    """
    found = []
    counted = [row for row in counted if row["format"] == NEEDS_FORMAT]
    for model in dict.fromkeys((row["model"], row["tokens"]) for row in counted):
        rows = [row for row in counted if (row["model"], row["tokens"]) == model]
        online = [row for row in rows if row["phase"].startswith(ONLINE)]
        offline = next((row for row in rows if row["phase"] == "offline"), None)
        if offline is None or not online:
            continue
        architecture, shape = parse(offline["architecture"]), ModelShape(**offline["shape"])
        new_tokens = max(_token(row) for row in online)
        prompt = offline["tokens"] - new_tokens + 1
        made = price_prepared(architecture, shape, prompt, new_tokens, network=LAN, answers=offline["answers"]).offline
        found.append(_checked(offline, made))
        for name in dict.fromkeys(row["network"] for row in online):
            # The runs make one session for all networks, with stocks of transfers and all of the engine's threads.
            asked, threads = (architecture, shape, prompt, new_tokens), ProtocolSettings.threads
            passes = price_prepared_passes(*asked, network=LAN, forms=FORMS[name], transfers="ferret", threads=threads)
            found += [_checked(row, passes[_token(row) - 1].total) for row in online if row["network"] == name]
    return found


def _token(row: Mapping[str, Any]) -> int:
    return int(row["phase"].removeprefix(ONLINE))


def _checked(row: Mapping[str, Any], amount: Amount) -> dict[str, Any]:
    return {
        "model": row["model"],
        "phase": row["phase"],
        "network": row["network"],
        "counted_bytes": row["bytes"],
        "bytes": amount.bytes,
        "error": amount.bytes / row["bytes"] - 1,
        "counted_messages": row["messages"],
        "messages": amount.messages,
        "counted_cpu_seconds": row["cpu_seconds"],
        "cpu_seconds": amount.cpu_seconds,
        "cpu_error": amount.cpu_seconds / row["cpu_seconds"] - 1,
        "load": row["load"],
    }


def checked_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The table of `checked_rows`."""
    columns = (
        Column("model", "model"),
        Column("phase", "phase"),
        Column("network", "forms for"),
        Column("counted_bytes", "counted MB", megabytes, "right"),
        Column("bytes", "predicted", megabytes, "right"),
        Column("error", "difference", "+.2%", "right"),
        Column("counted_messages", "messages", ",.0f", "right"),
        Column("messages", "predicted", ",", "right"),
        Column("counted_cpu_seconds", "CPU s", ",.1f", "right"),
        Column("cpu_seconds", "predicted", ",.1f", "right"),
        Column("cpu_error", "difference", "+.0%", "right"),
        Column("load", "load", ".1f", "right"),
    )
    return Table("Whole runs, counted and predicted", columns, rows)


def records_table(rows: Sequence[Mapping[str, Any]], note: str = "") -> Table:
    """The table of `hushlm.cost.records` as dictionaries."""

    def said(count: float | None) -> str:
        return "" if count is None else gigabytes(count)

    columns = (
        Column("system", "system"),
        Column("trust", "trusted"),
        Column("model", "model"),
        Column("tokens", "T", lambda count: "" if count is None else str(count), "right"),
        Column("seconds", "s", ",.1f", "right"),
        Column("bytes", "GB", said, "right"),
        Column("prepared_bytes", "GB before", said, "right"),
        Column("hardware", "hardware"),
        Column("network", "network"),
        Column("remark", "remark"),
        Column("source", "source"),
    )
    return Table("Records of private inference: one token", columns, rows, note)
