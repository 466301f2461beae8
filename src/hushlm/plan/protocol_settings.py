"""The settings of the two-party protocol, which a plan relies on and which bytes and time depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["SET_UP_WIDTH", "SMALL_RING_BITS", "SMALL_WORD_BYTES", "ProtocolSettings", "Transfers"]

Transfers = Literal["ferret", "softspoken"]
"""How oblivious transfers are made: in stocks of ten million, with seconds of set-up and next to no bytes a transfer, or call by call, with
hardly any set-up and 8 bytes a transfer."""

SMALL_RING_BITS = 32
"""The ring in which prepared answers compare numbers and look up embeddings; everything else is in a ring of 64 bits."""

SMALL_WORD_BYTES = SMALL_RING_BITS // 8

SET_UP_WIDTH = 64
"""Of the rows that a session's first program computes with, see `ProtocolSettings.set_up_rows`."""


@dataclass(frozen=True)
class ProtocolSettings:
    """What both parties must agree on for their shares to have the same meaning; the handshake compares it.

    Predictions take the same settings. Of these, `exponential_squarings` and `simulate` do not change what a plan's steps move.

    Attributes:
        exponential_squarings: the number n of the engine's own exponential (1 + z/2^n)^(2^n).
        fraction_bits: how many fraction bits the fixed-point numbers have, in a ring of 64 bits.
        pack_products: whether the answers of matrix products are packed into fewer ciphertexts. This moves a twentieth of the bytes and
            takes about 1.6 times the server's CPU time.
        one_bit_error: whether a product may be wrong by one unit in its last place, which makes truncation cheaper: a batch of
            elementwise products takes three ciphertexts instead of four.
        threads: how many threads each party's engine has. They decide how many stocks of oblivious transfers are set up. The bytes of a
            step do not depend on them, but its messages do.
        transfers: how oblivious transfers are made; what `threads` says of stocks holds for "ferret" alone. A session may take the other
            kind, see `hushlm.cost.session_transfers`.
        simulate: whether the same programs run in the clear, in one process, with the same fixed-point arithmetic.
    """

    exponential_squarings: int = 6
    fraction_bits: int = 18
    pack_products: bool = True
    one_bit_error: bool = True
    threads: int = 2
    transfers: Transfers = "ferret"
    simulate: bool = False

    @property
    def set_up_rows(self) -> int:
        """How many rows of `SET_UP_WIDTH` numbers start every thread: a thread joins in for every 2,048 elements of a call. Stocks are
        filled whatever is computed; transfers that are asked for are paid for, so that there they are as few as start the threads."""
        return 32 * self.threads if self.transfers == "ferret" else 32 * (self.threads - 1) + 1
