"""How long an exchange takes over a network: bytes take time on the wire, waiting takes round trips, and the rest is computing."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hushlm.cost.exchange import Exchange

__all__ = ["LAN", "LOOPBACK", "WAN", "Network", "parse_network"]


@dataclass(frozen=True)
class Network:
    """A link that is equally fast in both directions.

    Attributes:
        name: the name that tables show.
        round_trip_seconds: how long a byte and its answer take.
        bits_per_second: how much each direction carries.
    """

    name: str
    round_trip_seconds: float
    bits_per_second: float

    def seconds(self, exchange: Exchange) -> float:
        """How long an exchange takes: compute seconds + round trips x round-trip time + 8 x bytes of both directions / bits per second.

        The three follow one another, because nearly all messages of a step depend on the ones before.
        """
        return self.seconds_of(exchange.total_bytes, exchange.rounds, exchange.compute_seconds)

    def seconds_of(self, total_bytes: float, rounds: float, compute_seconds: float) -> float:
        """`seconds` of so many bytes, round trips and seconds of computing."""
        return compute_seconds + rounds * self.round_trip_seconds + 8 * total_bytes / self.bits_per_second

    def __str__(self) -> str:
        return f"{self.name} ({self.round_trip_seconds * 1e3:g} ms, {self.bits_per_second / 1e6:g} Mbps)"


LAN = Network("lan", 0.5e-3, 1e9)
WAN = Network("wan", 80e-3, 100e6)
"""The two networks of arXiv 2501.03489: a local one and a wide-area one."""

LOOPBACK = Network("loopback", 0.2e-3, 10e9)
"""Between two processes of one machine: a session's links pass two relays each way, of some 56 microseconds each (docs/log.md)."""

_CUSTOM = re.compile(r"(\d+(?:\.\d+)?)\s*(?:ms)?\s*,\s*(\d+(?:\.\d+)?)\s*(?:Mbps)?", re.IGNORECASE)


def parse_network(text: str) -> Network:
    """A network from its name, "lan" or "wan", or from round trip and bandwidth as "RTTms,Mbps", e.g. "20ms,300" or "20,300".

    Raises:
        ValueError: in one sentence, for anything else.
    """
    for network in (LAN, WAN):
        if text.strip().lower() == network.name:
            return network
    found = _CUSTOM.fullmatch(text.strip())
    if found is None or float(found[2]) == 0:
        raise ValueError(f"A network must be lan, wan, or a round trip and a bandwidth like 30ms,50Mbps, not {text!r}.")
    return Network("custom", float(found[1]) / 1e3, float(found[2]) * 1e6)
