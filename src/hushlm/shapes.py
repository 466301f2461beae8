"""The shapes of well-known models, and how a size of one model is scaled to the size of another."""

from __future__ import annotations

from fractions import Fraction

from hushlm.config import ModelShape

__all__ = ["GPT2_SMALL", "GPT2_VOCABULARY", "KNOWN_SHAPES", "proportional"]

GPT2_VOCABULARY = 50_257
"""How many token ids GPT-2's tokenizer has."""

GPT2_SMALL = ModelShape(layers=12, heads=12, width=768, context=128, vocabulary=GPT2_VOCABULARY)

KNOWN_SHAPES = {
    "Pythia 70M": ModelShape(layers=6, heads=8, width=512, context=128, vocabulary=50_304),
    "GPT-2 small": GPT2_SMALL,
    "GPT-2 medium": ModelShape(layers=24, heads=16, width=1024, context=128, vocabulary=GPT2_VOCABULARY),
    "GPT-2 XL": ModelShape(layers=48, heads=25, width=1600, context=128, vocabulary=GPT2_VOCABULARY),
    "7B": ModelShape(layers=32, heads=32, width=4096, context=128, vocabulary=32_000),
}
"""The shapes by their names, smallest first, all with a context of 128 tokens."""


def proportional(value: int, of: int, to: int, name: str) -> int:
    """The number that is to `to` what `value` is to `of`.

    Args:
        value: a number of the first model's.
        of: the size of the first model that it is a part of.
        to: the same size of the second model.
        name: what is counted, for the error's message.

    Raises:
        ValueError: if the result is not a whole number.
    """
    scaled = Fraction(value * to, of)
    if scaled.denominator != 1:
        raise ValueError(f"{value} {name} of {of} correspond to {float(scaled):g} of {to}: choose a whole share.")
    return int(scaled)
