"""What calls of the engine move."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

__all__ = ["Exchange"]


@dataclass(frozen=True)
class Exchange:
    """What calls move. Adds up; peak memory takes the larger.

    Attributes:
        forward_bytes, back_bytes: client to server and server to client, without refills of stocks.
        forward_messages, back_messages: send actions.
        rounds: round trips one has to wait for.
        cpu_seconds: of both parties.
        compute_seconds: that pass with no network between the parties; set by `pricing`, which knows a step's program.
        forward_transfers, back_transfers: oblivious transfers used up with the client and with the server as sender, by worker.
        triples: stored product triples used up, call by call.
        calls: of primitives.
        client_bytes, server_bytes: peak memory of plaintext polynomials and ciphertexts at each party.
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
            self.calls * count,
            self.client_bytes,
            self.server_bytes,
        )

    @property
    def total_bytes(self) -> float:
        return self.forward_bytes + self.back_bytes


def _add(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x + y for x, y in zip_longest(a, b, fillvalue=0))
