"""The engine's choice of a tile, found quickly, against the loop that it is defined by."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushlm.plan.engine_tiles import SLOTS, tile_product


def by_the_engines_loop(rows: int, inner: int, outer: int, packed: bool) -> tuple[int, int, int]:
    """Every (d0, d1) in order; an equally good later one replaces an earlier one."""
    best, chosen = math.inf, (1, 1, 1)
    for d0 in range(1, min(SLOTS, rows) + 1):
        d1 = 1
        while d1 <= inner and d0 * d1 <= SLOTS:
            d2 = min(outer, SLOTS // d0 // d1)
            blocks = math.ceil(rows / d0), math.ceil(inner / d1), math.ceil(outer / d2)
            ciphertexts = min(blocks[0], blocks[2]) * blocks[1] + math.ceil(blocks[0] * blocks[2] / d1)
            switches = math.ceil(rows * outer / SLOTS) * d1 if packed else 0
            price = 1000.0 * ciphertexts + switches + blocks[0] * blocks[1] * blocks[2] / 10.0
            if price <= best:
                best, chosen = price, (d0, d1, d2)
            d1 = 2 * d1 if packed else d1 + 1
    return chosen


def expected(rows: int, inner: int, outer: int, packing: bool) -> tuple[int, int, int, bool]:
    """Blocks of the chosen tile, and whether its answers are packed."""
    tile = by_the_engines_loop(rows, inner, outer, packing)
    blocks = [math.ceil(size / part) for size, part in zip((rows, inner, outer), tile, strict=True)]
    packed = packing and blocks[0] * blocks[2] > 1
    if packing and not packed:
        tile = by_the_engines_loop(rows, inner, outer, packed=False)
        blocks = [math.ceil(size / part) for size, part in zip((rows, inner, outer), tile, strict=True)]
    return blocks[0], blocks[1], blocks[2], packed


@given(rows=st.integers(1, 150), inner=st.integers(1, 1000), outer=st.integers(1, 3000), packing=st.booleans())
@settings(deadline=None, max_examples=60)
def test_the_tile_is_the_one_that_the_engine_chooses(rows: int, inner: int, outer: int, packing: bool) -> None:
    blocks0, blocks1, blocks2, packed = expected(rows, inner, outer, packing)
    tiling = tile_product(rows, inner, outer, packing)
    assert tiling.requests == min(blocks0, blocks2) * blocks1
    assert tiling.multiplications == blocks0 * blocks1 * blocks2
    assert (tiling.kept is None) == packed


@pytest.mark.parametrize("sizes", [(4096, 4096, 768), (1, 768, 50_257), (128, 50_257, 64), (1, 1, 1)])
def test_large_products_too(sizes: tuple[int, int, int]) -> None:
    blocks0, blocks1, blocks2, _ = expected(*sizes, packing=True)
    assert tile_product(*sizes).multiplications == blocks0 * blocks1 * blocks2


@given(rows=st.integers(1, 150), inner=st.integers(1, 1000), outer=st.integers(1, 3000))
@settings(deadline=None, max_examples=60)
def test_answers_are_merged_in_pairs_until_one_is_left(rows: int, inner: int, outer: int) -> None:
    tiling = tile_product(rows, inner, outer)
    d0, d1, d2 = by_the_engines_loop(rows, inner, outer, packed=True)
    answers = math.ceil(rows / d0) * math.ceil(outer / d2)
    if tiling.kept is not None:
        assert tiling.merges == 0
    elif d1 < rows * outer and answers == 2 ** (answers.bit_length() - 1) and answers <= d1:
        # As many places as the tile is deep, the answers evenly among them; who has no partner is brought up a level all the same.
        places = [index % (d1 // answers) == 0 for index in range(d1)]
        merged = 0
        while len(places) > 1:
            places = [a or b for a, b in zip(places[::2], places[1::2], strict=True)]
            merged += sum(places)
        assert tiling.merges == merged
