"""What some calls of the engine's primitives move, and what they take."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

__all__ = ["Exchange"]


@dataclass(frozen=True)
class Exchange:
    """What some calls move and take. The sum of two exchanges adds everything up, except peak memory, of which it takes the larger.

    Attributes:
        forward_bytes, back_bytes: bytes from the client to the server and from the server to the client, without refills of stocks.
        forward_messages, back_messages: how often each party sends.
        rounds: the round trips that the parties have to wait for.
        cpu_seconds: the CPU seconds of both parties together.
        compute_seconds: the seconds that pass with no network between the parties; set by `hushlm.cost.pricing`, which knows the
            program of a step.
        forward_transfers, back_transfers: how many oblivious transfers each worker uses up with the client and with the server as sender.
        triples: how many stored product triples each call uses up.
        asks, asked_transfers: how many of the messages ask for oblivious transfers, and for how many transfers.
        calls: how many primitives are called.
        client_bytes, server_bytes: the peak memory of plaintext polynomials and ciphertexts at each party.
    """

    forward_bytes: float = 0.0
    back_bytes: float = 0.0
    forward_messages: float = 0.0
    back_messages: float = 0.0
    rounds: float = 0.0
    cpu_seconds: float = 0.0
    compute_seconds: float = 0.0
    forward_transfers: tuple[int, ...] = ()
    back_transfers: tuple[int, ...] = ()
    triples: tuple[int, ...] = ()
    asks: float = 0.0
    asked_transfers: float = 0.0
    calls: int = 0
    client_bytes: int = 0
    server_bytes: int = 0

    def __add__(self, other: Exchange) -> Exchange:
        return Exchange(
            self.forward_bytes + other.forward_bytes,
            self.back_bytes + other.back_bytes,
            self.forward_messages + other.forward_messages,
            self.back_messages + other.back_messages,
            self.rounds + other.rounds,
            self.cpu_seconds + other.cpu_seconds,
            self.compute_seconds + other.compute_seconds,
            _add(self.forward_transfers, other.forward_transfers),
            _add(self.back_transfers, other.back_transfers),
            self.triples + other.triples,
            self.asks + other.asks,
            self.asked_transfers + other.asked_transfers,
            self.calls + other.calls,
            max(self.client_bytes, other.client_bytes),
            max(self.server_bytes, other.server_bytes),
        )

    def times(self, count: int) -> Exchange:
        """The same calls `count` times over, one after another."""
        if not count:
            return Exchange()
        return Exchange(
            self.forward_bytes * count,
            self.back_bytes * count,
            self.forward_messages * count,
            self.back_messages * count,
            self.rounds * count,
            self.cpu_seconds * count,
            self.compute_seconds * count,
            tuple(n * count for n in self.forward_transfers),
            tuple(n * count for n in self.back_transfers),
            self.triples * count,
            self.asks * count,
            self.asked_transfers * count,
            self.calls * count,
            self.client_bytes,
            self.server_bytes,
        )

    @property
    def total_bytes(self) -> float:
        """The bytes of both directions together."""
        return self.forward_bytes + self.back_bytes


def _add(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    if not a or not b:
        return a or b
    return tuple(x + y for x, y in zip_longest(a, b, fillvalue=0))
