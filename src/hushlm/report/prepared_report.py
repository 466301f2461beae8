"""Today's pass and prepared answers side by side: phase by phase, over a local and a wide-area network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hushlm.cost.network import LAN, WAN
from hushlm.cost.prepared.price import PreparedCost
from hushlm.cost.pricing import Amount, GenerationCost
from hushlm.report.cost_tables import megabytes
from hushlm.report.table import Column, Table

__all__ = ["phase_rows", "phases_table"]


def phase_rows(today: GenerationCost, prepared: PreparedCost) -> list[dict[str, Any]]:
    """One row a phase, as plain JSON values; of an answer of several tokens the whole of it, and its first and last token."""
    tokens = len(today.passes)
    phases: list[tuple[str, Amount]] = [("today, first token", today.passes[0].total)]
    online = [("online, first token", prepared.passes[0].total)]
    if tokens > 1:
        phases += [("today, last further token", today.passes[-1].total), (f"today, {tokens} tokens", today.total)]
        online += [("online, last further token", prepared.passes[-1].total), (f"online, {tokens} tokens", prepared.online)]
    phases += [("offline, an answer", prepared.offline), *online]
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
        f"{megabytes(prepared.kept_server_bytes)} MB. Set-up, once a session: {megabytes(prepared.set_up.bytes)} MB. "
        f"Online seconds were fitted on {prepared.measured}."
    )
    return Table("Prepared answers beside today's pass", columns, rows, note)
