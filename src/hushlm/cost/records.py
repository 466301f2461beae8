"""The field's records of private inference beside ours, each with whom its users must trust."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.cost.constants import load_constants
from hushlm.cost.network import LAN, WAN
from hushlm.cost.prepared import price_prepared
from hushlm.cost.prepared.online_constants import load_online_constants
from hushlm.cost.pricing import Amount, price
from hushlm.plan import prefill_plan
from hushlm.published import read_published
from hushlm.shapes import GPT2_SMALL

__all__ = ["RECORDS_NOTE", "TRUST", "Record", "records"]

TRUST = "two parties, nobody else"
"""Whom users of this project trust: the client itself and a server that follows the protocol, and nobody beside them."""

OURS = ("SM2+R", "SM2+ScFuFFN")
OUR_TOKENS = 128

RECORDS_NOTE = (
    "A record is worth what it assumes: a dealer who knows all keys, two honest parties of three, or nobody. Published rows are restated "
    "from their sources, on other machines and networks; ours are predicted for one first token, on two cores for both parties."
)


@dataclass(frozen=True)
class Record:
    """One private token of one system.

    Attributes:
        system: its name.
        trust: whom its users must trust.
        model: what was computed.
        tokens: of the prompt; None where not said.
        seconds: how long one token took, what was prepared before it not included.
        bytes: of both directions, likewise; None where not said.
        prepared_bytes: moved or kept beforehand for this one token; None where nothing is prepared, or not said.
        hardware, network: what it was measured on, or predicted for.
        remark: what else must be known.
        source: where the figures come from.
    """

    system: str
    trust: str
    model: str
    tokens: int | None
    seconds: float
    bytes: float | None
    prepared_bytes: float | None
    hardware: str
    network: str
    remark: str
    source: str

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return asdict(self)


def records() -> list[Record]:
    """Published records, in the order of the file, and then ours: today's pass and prepared answers."""
    return [_published(values) for values in read_published("private_inference_records.csv")] + [
        record for name in OURS for record in _ours(name, GPT2_SMALL)
    ]


def _published(values: dict[str, str]) -> Record:
    def number(name: str) -> float | None:
        return float(values[name]) if values[name] else None

    return Record(
        system=values["system"],
        trust=values["trust"],
        model=values["model"],
        tokens=int(values["tokens"]) if values["tokens"] else None,
        seconds=float(values["seconds"]),
        bytes=number("bytes"),
        prepared_bytes=number("prepared_bytes"),
        hardware=values["hardware"],
        network=values["network"],
        remark=values["remark"],
        source=values["source"],
    )


def _ours(name: str, shape: ModelShape) -> list[Record]:
    architecture, found = parse(name), list[Record]()
    cores, machine = f"{load_constants().cores} cores", load_online_constants().machine.partition(", Python")[0]
    for network in (LAN, WAN):
        today = price(prefill_plan(architecture, shape, OUR_TOKENS), network=network).total
        prepared = price_prepared(architecture, shape, OUR_TOKENS, 1, network=network)
        offline = f"{prepared.offline.cpu_seconds:,.0f} CPU s before the prompt"
        rows: list[tuple[str, Amount, float | None, str, str]] = [
            ("today's pass", today, None, cores, ""),
            ("prepared", prepared.online, prepared.offline.bytes, machine, offline),
        ]
        for form, amount, before, hardware, remark in rows:
            found.append(
                Record(
                    system=f"Hush, {name}, {form}",
                    trust=TRUST,
                    model="GPT-2 small's shape",
                    tokens=OUR_TOKENS,
                    seconds=amount.seconds,
                    bytes=amount.bytes,
                    prepared_bytes=before,
                    hardware=hardware,
                    network=str(network),
                    remark=remark,
                    source="predicted by `hushlm cost`, seconds by constants fitted on this hardware",
                )
            )
    return found
