"""How the engine cuts a matrix product into ciphertexts: facts of Cheetah (SPU 0.9.5), ring of 64 bits.

A product (rows, inner) x (inner, outer) is computed on polynomials of `SLOTS` coefficients. One side encrypts its matrix
(requests), the other multiplies with its own matrix in plaintext and answers (responses), packed by key switching. The
engine chooses the tile (d0, d1, d2), d0 d1 d2 <= SLOTS, that minimises 1000 (requests + responses) + key switches
+ 0.1 multiplications, and the side that encrypts is the one with fewer polynomials.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["POLYNOMIAL_BYTES", "SLOTS", "ProductTiling", "ceil_div", "product_blocks", "tile_product"]

SLOTS = 8192
POLYNOMIAL_BYTES = SLOTS * 3 * 8
"""A plaintext polynomial in memory: three primes of eight bytes a coefficient."""

SPLIT_LIMIT_BYTES = 256 * 1024 * 1024
SHARE_BYTES = 8


@dataclass(frozen=True)
class ProductTiling:
    """Ciphertexts of one cross term.

    Attributes:
        requests: ciphertexts from the side that encrypts.
        responses: ciphertexts back.
        kept: coefficients that are left in all responses together, where those are not packed; None where they are.
        left_encrypts: the owner of the left matrix encrypts, otherwise the owner of the right one.
        plaintexts: polynomials that the other side holds in memory at once.
        key_switches: of the packing, as the engine's own choice of a tile counts them.
        merges: of the packing, nearly all of its time: answers are merged in pairs, those that meet nothing on their way, too.
        multiplications: of a plaintext and a ciphertext.
    """

    requests: int
    responses: int
    kept: int | None
    left_encrypts: bool
    plaintexts: int
    key_switches: int
    merges: int
    multiplications: int


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def _tile(rows: int, inner: int, outer: int, packed: bool) -> tuple[int, int, int]:
    """The engine's choice of (d0, d1, d2); of equally good ones the last that a loop over d0, then d1, meets.

    With d1 given, as many blocks of rows and more blocks of columns are never better, so that of all d0 with as many blocks of rows the
    first decides, and only each number of blocks is looked at.
    """
    best, chosen = (math.inf, 0, 0), (1, 1, 1)
    d1 = 1
    while d1 <= min(inner, SLOTS):
        blocks1, most, d0 = ceil_div(inner, d1), min(rows, SLOTS // d1), 1
        switches = ceil_div(rows * outer, SLOTS) * d1 if packed else 0
        while d0 <= most:
            d2 = min(outer, SLOTS // d0 // d1)
            blocks0, blocks2 = ceil_div(rows, d0), ceil_div(outer, d2)
            following = (rows - 1) // (blocks0 - 1) + 1 if blocks0 > 1 else rows + 1
            ciphertexts = min(blocks0, blocks2) * blocks1 + ceil_div(blocks0 * blocks2, d1)
            price = 1000.0 * ciphertexts + switches + blocks0 * blocks1 * blocks2 / 10.0
            if price <= best[0]:
                # The last d0 with as many blocks both ways.
                last = max(d0, min(most, following - 1, SLOTS // d1 // ceil_div(outer, blocks2)))
                if (price, -last, -d1) < best:
                    best, chosen = (price, -last, -d1), (last, d1, min(outer, SLOTS // last // d1))
            d0 = following
        d1 = 2 * d1 if packed else d1 + 1
    return chosen


@lru_cache(maxsize=65536)
def tile_product(rows: int, inner: int, outer: int, packing: bool = True) -> ProductTiling:
    """Ciphertexts of one cross term of a product that the engine does not split (see `product_blocks`).

    Args:
        packing: the engine packs the responses, except where there is only one.
    """
    d0, d1, d2 = _tile(rows, inner, outer, packing)
    blocks0, blocks1, blocks2 = ceil_div(rows, d0), ceil_div(inner, d1), ceil_div(outer, d2)
    results = blocks0 * blocks2
    packed = packing and results > 1
    if packing and not packed:
        d0, d1, d2 = _tile(rows, inner, outer, packed=False)
        blocks0, blocks1, blocks2 = ceil_div(rows, d0), ceil_div(inner, d1), ceil_div(outer, d2)
        results = blocks0 * blocks2
    left, right = blocks0 * blocks1, blocks1 * blocks2
    if not packed:
        responses, kept, switches, merges = results, rows * outer, 0, 0
    elif d1 < rows * outer:
        responses, kept, switches = ceil_div(results, d1), None, results
        together = ceil_div(results, responses)
        merges = results - responses + results * ((d1 // together).bit_length() - 1)
    else:
        responses, kept, switches = ceil_div(rows * outer, SLOTS), None, rows * outer
        # Single coefficients take about half the time (measured).
        merges = ceil_div(switches, 2)
    return ProductTiling(
        requests=min(left, right),
        responses=responses,
        kept=kept,
        left_encrypts=left <= right,
        plaintexts=max(left, right),
        key_switches=switches,
        merges=merges,
        multiplications=blocks0 * blocks1 * blocks2,
    )


def product_blocks(rows: int, inner: int, outer: int) -> Iterator[tuple[int, int, int]]:
    """Shapes of the products that the engine makes of one whose operands exceed `SPLIT_LIMIT_BYTES`: usually just the one."""
    if (rows * inner + inner * outer) * SHARE_BYTES < SPLIT_LIMIT_BYTES:
        yield rows, inner, outer
        return
    limit = SPLIT_LIMIT_BYTES / SHARE_BYTES
    if inner > 8 * (rows + outer):
        border = rows + outer
        inner_step = max(1, math.ceil(limit / border))
    elif rows + outer > 8 * inner:
        inner_step = inner
        border = max(1, math.ceil(limit / inner_step))
    else:
        side = math.sqrt(limit / (inner / (rows + outer)))
        inner_step = max(1, math.ceil(limit / side))
        border = max(1, math.ceil(side))
    row_step = max(border * rows // (rows + outer), 1)
    outer_step = max(border * outer // (rows + outer), 1)
    for row in range(0, rows, row_step):
        for column in range(0, outer, outer_step):
            for start in range(0, inner, inner_step):
                yield min(row_step, rows - row), min(inner_step, inner - start), min(outer_step, outer - column)
