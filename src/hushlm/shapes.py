"""Sizes of well-known models, and what a size of one model corresponds to at the scale of another."""

from __future__ import annotations

from fractions import Fraction

from hushlm.config import ModelShape

__all__ = ["GPT2_SMALL", "GPT2_VOCABULARY", "KNOWN_SHAPES", "proportional"]

GPT2_VOCABULARY = 50_257

GPT2_SMALL = ModelShape(layers=12, heads=12, width=768, context=128, vocabulary=GPT2_VOCABULARY)

KNOWN_SHAPES = {
    "Pythia 70M": ModelShape(layers=6, heads=8, width=512, context=128, vocabulary=50_304),
    "GPT-2 small": GPT2_SMALL,
    "GPT-2 medium": ModelShape(layers=24, heads=16, width=1024, context=128, vocabulary=GPT2_VOCABULARY),
    "GPT-2 XL": ModelShape(layers=48, heads=25, width=1600, context=128, vocabulary=GPT2_VOCABULARY),
    "7B": ModelShape(layers=32, heads=32, width=4096, context=128, vocabulary=32_000),
}
"""By name, smallest first, all with a context of 128 tokens."""


def proportional(value: int, of: int, to: int, name: str) -> int:
    """What `value` of `of` is of `to`.

    Args:
        name: of the size, for the message.

    Raises:
        ValueError: if that is not whole.
    """
    scaled = Fraction(value * to, of)
    if scaled.denominator != 1:
        raise ValueError(f"{value} {name} of {of} correspond to {float(scaled):g} of {to}: choose a whole share.")
    return int(scaled)
