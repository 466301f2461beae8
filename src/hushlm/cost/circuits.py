"""The engine's Boolean circuits: how many bits of each element they AND at once, and how many they open.

Facts of the engine Cheetah (SPU 0.9.5). A comparison compares digits of 4 bits, and joins what it finds by ANDs.
"""

from __future__ import annotations

__all__ = ["ADDER_ANDS", "ADDER_OPENINGS", "COMPARISON_ANDS", "COMPARISON_OPENINGS", "PREFIX_ANDS", "PREFIX_OPENINGS"]

COMPARISON_ANDS = {
    64: ((1, 2), (7, 3), (1, 2), (3, 3), (1, 2), (1, 3), (1, 2)),
    32: ((1, 2), (3, 3), (1, 2), (1, 3), (1, 2)),
}
"""The ANDs of a comparison: so many bits of each element at once, in so many openings, by the bits of the ring. Half the bits have half the
digits, and one level of ANDs less. An AND has two openings; two ANDs that share an operand have three together, and take as many
transfers as one."""

COMPARISON_OPENINGS = {bits: tuple(width for width, openings in ands for _ in range(openings)) for bits, ands in COMPARISON_ANDS.items()}
"""How many bits of each element are opened in each opening of the ANDs of a comparison, by the bits of the ring."""

ADDER_OPENINGS = (64,) * 26
"""The same for the adder that turns shares of a number into shares of its bits."""

ADDER_ANDS = (64, *(128,) * 6)
"""Bits of each element whose ANDs the adder does at once."""

PREFIX_ANDS = (63, 62, 60, 56, 48, 32)
"""The same for the prefix OR that finds the highest bit of a number."""

PREFIX_OPENINGS = tuple(width for width in PREFIX_ANDS for _ in range(2))
