"""A desk with one party, for online forms without the sharing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hushlm.private.engine.shares import Words, encode

BITS = 18


class OneParty:
    """A desk at which the client has everything and the server zeros."""

    fraction_bits, is_client = BITS, True
    truncations = 0

    def constant(self, value: np.ndarray | float, fraction_bits: int = BITS) -> Words:
        return encode(np.asarray(value), fraction_bits)

    def small(self, key: object, function: Callable[..., Any], inputs: Sequence[Words]) -> list[np.ndarray]:
        return [function(*(words.astype(np.uint32).view(np.int32) for words in inputs))]

    def where(self, bits: np.ndarray, words: Words) -> Words:
        return np.where(bits, words, np.uint64(0))

    def divide(self, words: Words, bits: int) -> Words:
        self.truncations += 1
        return (words.view(np.int64) >> bits).view(np.uint64)

    def truncate(self, words: Words) -> Words:
        return self.divide(words, BITS)
