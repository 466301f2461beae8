"""The prepared form of 1 / x, on words that one party has alone: what two parties do, less the sharing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest

from hushlm.private.engine.shares import Words, decode, encode
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.inverse import reciprocals

BITS = 18


class OneParty:
    """A desk at which the client has everything and the server zeros."""

    fraction_bits = BITS
    truncations = 0

    def constant(self, value: float, fraction_bits: int = BITS) -> Words:
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


@pytest.mark.parametrize("largest", [1, 2, 3, 32, 128, 1024])
def test_reciprocals_of_all_sizes(largest: int) -> None:
    desk = OneParty()
    x = np.concatenate([[1.0, largest], np.random.default_rng(largest).uniform(1, largest, 500)])
    found = reciprocals(cast(Desk, desk), encode(x, BITS), largest, lambda v: desk.truncate(v * v), lambda v, w: v * w)
    # Some units of the last place, and the polynomial's own 9e-6.
    np.testing.assert_allclose(decode(found, BITS), 1 / x, rtol=2e-5, atol=6 * 2.0**-BITS)
    assert desk.truncations == 4 + (largest > 2)


@pytest.mark.parametrize(("smallest", "largest"), [(2.0**-13, 2**12), (0.5, 64)])
def test_reciprocals_of_sums_below_1(smallest: float, largest: int) -> None:
    desk = OneParty()
    x = np.concatenate([[smallest, largest - 1], np.exp(np.random.default_rng(0).uniform(np.log(smallest), np.log(largest), 500))])
    words = encode(x, BITS)
    found = reciprocals(cast(Desk, desk), words, largest, lambda v: desk.truncate(v * v), lambda v, w: v * w, smallest)
    # Truncations inside the polynomial are of numbers near 1, and grow with 1 / x where x is small.
    np.testing.assert_allclose(decode(found, BITS), 1 / decode(words, BITS), rtol=6e-5, atol=6 * 2.0**-BITS)
