"""Calls of the few primitives that a prepared answer takes online: what each moves, in how many messages, and for how long it waits.

Facts of the engine Cheetah (SPU 0.9.5), counted and timed between two processes with stocks of oblivious transfers in hand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, assert_never

from hushlm.cost.network import Network
from hushlm.cost.primitives import sends, worker_pieces

__all__ = ["CALLS", "Call", "CallPrice", "call_bytes", "call_messages", "call_rounds", "call_seconds"]

Kind = Literal["compare", "and", "select", "select-64", "truncate", "open", "client sends"]
"""In the ring of 32 bits: comparison, AND of two bits, bit times number. In that of 64: bit times number, truncation. Beside the engine:
words that both parties send each other at once, and words that the client alone sends."""


@dataclass(frozen=True)
class CallPrice:
    """What a call takes.

    Attributes:
        bytes: of each element, both directions; of words sent openly 0, because what is opened is counted by itself.
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
}


@dataclass(frozen=True)
class Call:
    """One call of a primitive on so many elements; calls follow one another."""

    kind: Kind
    elements: int


def call_bytes(calls: Iterable[Call]) -> float:
    """Bytes of both directions, of all but the words that are sent openly."""
    return sum(CALLS[call.kind].bytes * call.elements for call in calls)


def call_rounds(calls: Iterable[Call]) -> float:
    """Round trips waited for."""
    return sum(CALLS[call.kind].rounds for call in calls)


def call_seconds(calls: Iterable[Call], network: Network) -> float:
    """How long calls take over a network, one after another, without the words that are sent openly."""
    calls = list(calls)
    computing = sum(CALLS[call.kind].seconds * call.elements for call in calls)
    return call_rounds(calls) * network.round_trip_seconds + 8 * call_bytes(calls) / network.bits_per_second + computing


def call_messages(call: Call, threads: int, fraction_bits: int) -> tuple[int, int]:
    """How often the client and the server send, exactly, where no stock is refilled (two messages more).

    Args:
        threads: of each party's engine.
        fraction_bits: by which a truncation shifts.
    """
    n, workers = call.elements, len(worker_pieces(call.elements, threads)) if call.elements else 0
    match call.kind:
        case "compare":
            return 12 * workers + sends(n, 32, threads), 12 * workers + sends(n, 4, threads)
        case "and":
            return 2 * workers, 2 * workers
        case "select" | "select-64":
            each = workers + sends(n, 4 if call.kind == "select" else 8, threads)
            return each, each
        case "truncate":
            return sends(n, -(-fraction_bits // 8), threads), workers
        case "open":
            return 1, 1
        case "client sends":
            return 1, 0
        case _:
            assert_never(call.kind)
