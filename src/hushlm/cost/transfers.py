"""What oblivious transfers take, by how they are made: out of stocks (Ferret), or asked for call by call (SoftSpoken).

These are facts of the engine Cheetah (SPU 0.9.5), counted between two processes. With Ferret a call takes its transfers from a stock, which
`hushlm.cost.stocks` follows and `Primitives.amortised` spreads; only choices that are not random are sent. With SoftSpoken the receiver
asks for the transfers of each call, its choices included, and nothing is left over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hushlm.cost.constants import Constants
from hushlm.cost.exchange import Exchange
from hushlm.plan.engine_tiles import ceil_div
from hushlm.plan.protocol_settings import ProtocolSettings, Transfers

__all__ = ["BATCH", "BATCH_BYTES", "asking", "first_transfers", "packed_bytes", "used_transfers"]

BATCH = 128
"""Transfers are extended so many at once."""

BATCH_BYTES = 1024
"""The receiver sends so much for each batch: 8 bytes a transfer."""

SPARE = 64
"""So many more are extended with every ask."""

LONG_ASK = 8192
"""So many are asked for in one message, as long as there are as many; of the rest every batch is a message."""

PACKED_ELEMENTS = 8
"""What is sent with transfers that were asked for is packed into words so many elements at a time."""

SOFTSPOKEN_WORKER_BYTES, SOFTSPOKEN_WORKER_MESSAGES = 8224, 3
"""Of starting one worker of a runtime, in each direction: base transfers in both roles."""

SOFTSPOKEN_WORKER_ROUNDS = 4.0

FERRET_WORKER_MESSAGES, FERRET_WORKER_ROUNDS = 10, 10.0
"""Of the same with stocks, whose bytes are `Constants.worker_set_up`."""


def asking(transfers: int) -> tuple[int, int]:
    """Bytes and messages by which a receiver asks for so many transfers at once."""
    batches, long = ceil_div(transfers + SPARE, BATCH), transfers // LONG_ASK
    return batches * BATCH_BYTES, long + batches - long * (LONG_ASK // BATCH)


def packed_bytes(n: int, bits: int, ring_bits: int) -> int:
    """The bytes of n elements of `bits` bits that are sent with transfers that were asked for, in words of the ring."""
    whole, rest = divmod(n, PACKED_ELEMENTS)
    words = whole * ceil_div(PACKED_ELEMENTS * bits, ring_bits) + ceil_div(rest * bits, ring_bits)
    return words * ring_bits // 8


def used_transfers(kind: Transfers, pieces: Sequence[int], forward: Sequence[int], back: Sequence[int], constants: Constants) -> Exchange:
    """What it takes that the workers of a call use transfers.

    Args:
        pieces: how many elements each worker takes.
        forward, back: with the client and with the server as the sender: how many transfers an element takes, one number for each time
            that the engine needs some.
    """
    if kind == "ferret":
        return Exchange(forward_transfers=_drawn(pieces, forward), back_transfers=_drawn(pieces, back))
    # Whoever receives asks.
    client = _together(asking(piece * each) for piece in pieces for each in back)
    server = _together(asking(piece * each) for piece in pieces for each in forward)
    return Exchange(
        forward_bytes=client[0],
        back_bytes=server[0],
        forward_messages=client[1],
        back_messages=server[1],
        rounds=constants.ask_rounds * min(len(forward), len(back)),
        asks=client[1] + server[1],
        asked_transfers=sum(pieces) * (sum(forward) + sum(back)),
    )


def first_transfers(settings: ProtocolSettings, constants: Constants) -> Exchange:
    """Starting every worker of one runtime: its base transfers, and with Ferret its first stocks."""
    if settings.transfers == "ferret":
        moved, messages, rounds = constants.worker_set_up, FERRET_WORKER_MESSAGES, FERRET_WORKER_ROUNDS
        seconds = constants.ferret_worker_seconds
    else:
        moved, messages, rounds = SOFTSPOKEN_WORKER_BYTES, SOFTSPOKEN_WORKER_MESSAGES, SOFTSPOKEN_WORKER_ROUNDS
        seconds = constants.softspoken_worker_seconds
    workers = settings.threads
    return Exchange(
        forward_bytes=workers * moved,
        back_bytes=workers * moved,
        forward_messages=workers * messages,
        back_messages=workers * messages,
        rounds=rounds,
        cpu_seconds=workers * seconds,
    )


def _drawn(pieces: Sequence[int], each: Sequence[int]) -> tuple[int, ...]:
    return tuple(piece * sum(each) for piece in pieces) if each else ()


def _together(asks: Iterable[tuple[int, int]]) -> tuple[int, int]:
    found = list(asks)
    return sum(moved for moved, _ in found), sum(messages for _, messages in found)
