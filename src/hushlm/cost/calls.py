"""Calls of the few primitives that a prepared answer takes online: what each moves, in how many messages, and for how long it waits.

Facts of the engine Cheetah (SPU 0.9.5), counted and timed between two processes with stocks of oblivious transfers in hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, assert_never

from hushlm.cost.circuits import COMPARISON_OPENINGS
from hushlm.cost.network import Network
from hushlm.cost.primitives import sends, worker_pieces
from hushlm.plan.engine_tiles import ceil_div
from hushlm.plan.protocol_settings import SMALL_RING_BITS

__all__ = ["CALLS", "Call", "CallPrice", "Kind", "Sent", "call_rounds", "call_seconds", "call_sent"]

Kind = Literal["compare", "and", "select", "select-64", "truncate", "open", "client sends", "server sends"]
"""In the ring of 32 bits: comparison, AND of two bits, bit times number. In that of 64: bit times number, truncation. Beside the engine:
words that both parties send each other at once, and words that one of them alone sends."""


@dataclass(frozen=True)
class CallPrice:
    """What a call takes.

    Attributes:
        bytes: of each of many elements, both directions; of words sent openly 0, because what is opened is counted by itself.
        rounds: round trips that the call waits for, timed through a relay of 200 ms.
        seconds: of each element with no network between the parties, rough.
    """

    bytes: float
    rounds: float
    seconds: float


CALLS: dict[Kind, CallPrice] = {
    "compare": CallPrice(40.5, 7.2, 4e-6),
    "and": CallPrice(0.5, 1.0, 0.2e-6),
    "select": CallPrice(8.25, 1.0, 0.6e-6),
    "select-64": CallPrice(16.25, 1.2, 0.6e-6),
    "truncate": CallPrice(3.125, 1.1, 0.3e-6),
    "open": CallPrice(0.0, 0.5, 0.0),
    "client sends": CallPrice(0.0, 0.5, 0.0),
    "server sends": CallPrice(0.0, 0.5, 0.0),
}


@dataclass(frozen=True)
class Call:
    """One call of a primitive on so many elements; calls follow one another."""

    kind: Kind
    elements: int


def call_rounds(calls: Iterable[Call]) -> float:
    """Round trips waited for."""
    return sum(CALLS[call.kind].rounds for call in calls)


def call_seconds(calls: Iterable[Call], network: Network) -> float:
    """How long calls take over a network, one after another, without the words that are sent openly."""
    calls = list(calls)
    computing = sum(CALLS[call.kind].seconds * call.elements for call in calls)
    moved = sum(CALLS[call.kind].bytes * call.elements for call in calls)
    return call_rounds(calls) * network.round_trip_seconds + 8 * moved / network.bits_per_second + computing


@dataclass(frozen=True)
class Sent:
    """What each party sends in some calls, exact where no stock of oblivious transfers is refilled (about 1 MB in two messages each).

    Bytes of calls on less than some dozens of elements may be a few words too many.
    """

    client_bytes: int = 0
    server_bytes: int = 0
    client_messages: int = 0
    server_messages: int = 0

    def __add__(self, other: Sent) -> Sent:
        return Sent(
            self.client_bytes + other.client_bytes,
            self.server_bytes + other.server_bytes,
            self.client_messages + other.client_messages,
            self.server_messages + other.server_messages,
        )


AND_OPENINGS = (1, 1)


def call_sent(call: Call, threads: int, fraction_bits: int) -> Sent:
    """What a call sends, of openings only the messages: their words are counted by themselves.

    Args:
        threads: of each party's engine.
        fraction_bits: by which a truncation shifts.
    """
    n = call.elements
    if not n:
        return Sent()
    pieces = worker_pieces(n, threads)
    workers, choices = len(pieces), sum(piece // 8 + piece % 8 for piece in pieces)

    def opened(bits: tuple[int, ...]) -> int:
        return sum(4 * ceil_div(piece * width, 32) for piece in pieces for width in bits)

    match call.kind:
        case "compare":
            both = opened(COMPARISON_OPENINGS[SMALL_RING_BITS])
            sent, answered = sends(n, 32, threads), sends(n, 4, threads)
            return Sent(32 * n + both, 4 * n + both, 12 * workers + sent, 12 * workers + answered)
        case "and":
            both = opened(AND_OPENINGS)
            return Sent(both, both, 2 * workers, 2 * workers)
        case "select" | "select-64":
            width = 4 if call.kind == "select" else 8
            messages = workers + sends(n, width, threads)
            return Sent(width * n + choices, width * n + choices, messages, messages)
        case "truncate":
            width = ceil_div(fraction_bits, 8)
            return Sent(sum(8 * ceil_div(width * piece, 8) for piece in pieces), choices, sends(n, width, threads), workers)
        case "open":
            return Sent(client_messages=1, server_messages=1)
        case "client sends":
            return Sent(client_messages=1)
        case "server sends":
            return Sent(server_messages=1)
        case _:
            assert_never(call.kind)
