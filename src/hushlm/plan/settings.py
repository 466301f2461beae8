"""The settings of the two-party protocol that a plan relies on, and that bytes and time depend on."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ProtocolSettings"]


@dataclass(frozen=True)
class ProtocolSettings:
    """What both parties must agree on for their shares to mean the same; the handshake compares it.

    Predictions take the same settings: `exponential_squarings` and `simulate` do not change what a plan's steps move.

    Attributes:
        exponential_squarings: n of the engine's own exponential (1 + z/2^n)^(2^n).
        fraction_bits: fraction bits of the fixed-point numbers, in a ring of 64 bits.
        pack_products: pack the answers of matrix products into fewer ciphertexts: a twentieth of the bytes for about 1.6 times the
            server's CPU time.
        one_bit_error: allow an error of one unit in the last place after a product, for cheaper truncation: three ciphertexts for a
            batch of elementwise products instead of four.
        threads: threads of each party's engine. They decide how many stocks of oblivious transfers are set up; a step's bytes do not
            depend on them, its messages do.
        simulate: run the same programs in the clear, in one process, with the same fixed-point arithmetic.
    """

    exponential_squarings: int = 6
    fraction_bits: int = 18
    pack_products: bool = True
    one_bit_error: bool = True
    threads: int = 2
    simulate: bool = False
