"""The settings of the two-party protocol, which a plan relies on and which bytes and time depend on."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SMALL_RING_BITS", "ProtocolSettings"]

SMALL_RING_BITS = 32
"""The ring in which prepared answers compare numbers and look up embeddings; everything else is in a ring of 64 bits."""


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
        simulate: whether the same programs run in the clear, in one process, with the same fixed-point arithmetic.
    """

    exponential_squarings: int = 6
    fraction_bits: int = 18
    pack_products: bool = True
    one_bit_error: bool = True
    threads: int = 2
    simulate: bool = False
