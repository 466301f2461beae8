"""Inverse roots in pieces: right over the whole range, and what they compare is what both parties have, without a truncation."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.private.prepared.one_party import BITS, OneParty

from hushlm.cost import LAN, WAN
from hushlm.cost.calls import call_rounds
from hushlm.cost.inverse_root import ENGINE_ROOT, root_calls, root_in_pieces
from hushlm.plan import ROOT_LIMITS, ROOT_LOW_LIMITS, Normalise
from hushlm.private.engine.shares import decode, encode
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.forms.inverse_root import inverse_roots, root_pieces

EPSILON = 1e-5


@pytest.mark.parametrize("width", [8, 576, 768, 1024])
def test_roots_of_all_sizes(width: int) -> None:
    mean_squares = np.concatenate(
        [[0.0], np.exp(np.random.default_rng(width).uniform(np.log(1e-6), np.log(2.0**15), 2000)), ROOT_LIMITS[:-1]]
    )
    desk = OneParty()
    found = inverse_roots(cast(Desk, desk), encode(mean_squares * width, 2 * BITS), width, EPSILON, lambda x, y: x * y)
    wanted = 1 / np.sqrt(mean_squares + EPSILON)
    error = np.abs(decode(found, BITS) - wanted)
    # The polynomials' own error, that of a squared length with 18 fraction bits, and some units of the last place.
    polynomial = np.where(mean_squares < 2.0**-11, 8e-4, 4.5e-5)
    length = 2.0**-BITS / (width * (mean_squares + EPSILON))
    assert (error <= (polynomial + length) * wanted + 8 * 2.0**-BITS).all()
    # The squared length, its scaling (which two parties do in two), both products of one call, and the result.
    assert desk.truncations == 4


def test_pieces_meet_and_each_is_near_the_root() -> None:
    exponents, middles, coefficients = root_pieces()
    edges = np.array([ROOT_LIMITS[0] / 2, *ROOT_LIMITS, 2 * ROOT_LIMITS[-1]])
    assert len(exponents) == len(edges) - 1
    assert sorted(ROOT_LIMITS) == list(ROOT_LIMITS)
    assert ROOT_LIMITS[ROOT_LOW_LIMITS] == 2.0**10
    for start, end, k, middle, terms in zip(edges[:-1], edges[1:], exponents, middles, coefficients, strict=True):
        x = np.linspace(start, end, 200)
        found = np.polynomial.Polynomial(terms)(x / 2**k - middle) * 2 ** (-k / 2)
        assert np.abs(found * np.sqrt(x) - 1).max() < (4e-5 if end / start < 1.5 else 7e-4)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**64 - 1), st.integers(0, 32))
def test_words_moved_down_are_shares_of_the_number_moved_down(number: int, mask: int, down: int) -> None:
    """Each party drops low bits of its own word; what is lost at the top is a multiple of 2^32."""
    both = (mask >> down) + (((number - mask) % 2**64) >> down)
    assert ((number >> down) - both) % 2**32 in (0, 1)


def test_a_slow_network_takes_pieces_and_none_the_engine_s_program() -> None:
    operation = Normalise(128, 768, False, 1, 1)
    assert root_in_pieces(operation, WAN)
    assert not root_in_pieces(operation, None)
    assert not root_in_pieces(Normalise(128, 768, True, 1, 1), WAN)
    assert not root_in_pieces(operation, LAN)
    assert not root_in_pieces(replace(operation, rows=1), LAN)
    assert call_rounds(root_calls(128)) < ENGINE_ROOT.rounds / 1.8
