"""The prepared form of 1 / x, on words that one party has alone: what two parties do, less the sharing."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from tests.private.prepared.one_party import BITS, OneParty

from hushlm.private.engine.shares import decode, encode
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.forms.inverse import reciprocals


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
