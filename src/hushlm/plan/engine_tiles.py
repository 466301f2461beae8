"""How the engine cuts a matrix product into ciphertexts.

These are facts of the engine Cheetah (SPU 0.9.5) with a ring of 64 bits. A product (rows, inner) x (inner, outer) is computed on
polynomials of `SLOTS` coefficients. One side encrypts its matrix and sends it (the requests). The other side multiplies with its own
matrix in plaintext, packs the results by key switching, and sends them back (the responses). The engine chooses the tile (d0, d1, d2)
with d0 d1 d2 <= SLOTS that minimises

    1000 (requests + responses) + key switches + 0.1 multiplications,

and the side that encrypts is the one with fewer polynomials.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

__all__ = [
    "LARGEST_PRODUCT_BITS",
    "POLYNOMIAL_BYTES",
    "SHARE_BYTES",
    "SLOTS",
    "ProductTiling",
    "ceil_div",
    "product_blocks",
    "tile_product",
]

SLOTS = 8192
POLYNOMIAL_BYTES = SLOTS * 3 * 8
"""The memory of a plaintext polynomial: each coefficient takes eight bytes for each of three primes."""

LARGEST_PRODUCT_BITS = 62
"""A product has twice as many fraction bits until it is truncated, and the engine truncates only numbers below 2^62 correctly. With 18
fraction bits a product must therefore be below 2^26, and a number that is squared below 8192 (measured between two processes: the square of
8000 is right, that of 8500 is wrong)."""

SPLIT_LIMIT_BYTES = 256 * 1024 * 1024
"""A product is split where the shares of both its matrices take this many bytes together."""

ROUNDING = 1e-6
"""Prices of tiles that differ by less are equal: they are whole numbers of tenths."""

SHARE_BYTES = 8
"""The memory of a share of one number: a ring element of 64 bits."""


@dataclass(frozen=True)
class ProductTiling:
    """The ciphertexts of one cross term of a product.

    Attributes:
        requests: how many ciphertexts the side that encrypts sends.
        responses: how many ciphertexts come back.
        kept: how many coefficients are left in all responses together, where those are not packed; None where they are packed.
        left_encrypts: whether the owner of the left matrix encrypts; otherwise the owner of the right one does.
        plaintexts: how many polynomials the other side holds in memory at once.
        key_switches: how many key switches the packing takes, as the engine counts them when it chooses a tile.
        merges: how many merges the packing takes, which are nearly all of its time. Answers are merged in pairs; an answer that meets no
            partner on its way counts as well.
        multiplications: how often a plaintext is multiplied with a ciphertext.
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
    """The engine's choice of (d0, d1, d2); of equally good ones it is the last that a loop over d0, and inside it over d1, meets.

    With a given d1, more blocks of columns are never better for the same number of blocks of rows. Of all d0 with the same number of
    blocks of rows the first one therefore decides, and only one d0 for each number of blocks is looked at. The most promising d1 come
    first, and none whose price is above the best one whatever d0 is.
    """
    whole = min(inner, SLOTS)
    best, chosen = (math.inf, 0, 0), (1, 1, 1)
    for least, d1 in sorted((_least_price(rows, inner, outer, d1, packed), d1) for d1 in _inner_steps(whole, packed)):
        if least > best[0] + ROUNDING:
            break
        blocks1, most, d0 = -(-inner // d1), min(rows, SLOTS // d1), 1
        switches = -(-rows * outer // SLOTS) * d1 if packed else 0
        while d0 <= most:
            d2 = min(outer, SLOTS // d0 // d1)
            blocks0, blocks2 = -(-rows // d0), -(-outer // d2)
            following = (rows - 1) // (blocks0 - 1) + 1 if blocks0 > 1 else rows + 1
            # Of so few blocks, of rows or of columns, a better tile has at most.
            room = 1 + (best[0] - least + ROUNDING) / (1000.0 * blocks1)
            if min(blocks0, blocks2) > room:
                d0 = max(following, -(-rows // int(room)))
                continue
            ciphertexts = min(blocks0, blocks2) * blocks1 + -(-blocks0 * blocks2 // d1)
            price = 1000.0 * ciphertexts + switches + blocks0 * blocks1 * blocks2 / 10.0
            if price <= best[0]:
                # The last d0 with the same numbers of blocks of rows and of columns.
                last = max(d0, min(most, following - 1, SLOTS // d1 // -(-outer // blocks2)))
                if (price, -last, -d1) < best:
                    best, chosen = (price, -last, -d1), (last, d1, min(outer, SLOTS // last // d1))
            d0 = following
    return chosen


def _inner_steps(whole: int, packed: bool) -> Iterable[int]:
    """The sizes of tiles along the inner dimension: packed answers need powers of two."""
    return (2**k for k in range(whole.bit_length())) if packed else range(1, whole + 1)


def _least_price(rows: int, inner: int, outer: int, d1: int, packed: bool) -> float:
    """What no tile of this d1 goes below: one block of rows or of columns is sent, and tiles are as full as they can be."""
    blocks1, spread = -(-inner // d1), SLOTS // d1
    switches = -(-rows * outer // SLOTS) * d1 if packed else 0
    pairs = max(1.0, rows * outer / spread)
    return 1000.0 * (blocks1 + -(-pairs // d1)) + switches + blocks1 * pairs / 10.0


@lru_cache(maxsize=65536)
def tile_product(rows: int, inner: int, outer: int, packing: bool = True) -> ProductTiling:
    """The ciphertexts of one cross term of a product that the engine does not split; `product_blocks` says which it splits.

    Args:
        rows, inner, outer: the sizes of the product.
        packing: whether the engine packs the responses. A single response is never packed.
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
        # Merging single coefficients takes about half the time (measured).
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
    """The shapes of the products into which the engine splits one: usually only the product itself, more from `SPLIT_LIMIT_BYTES` on."""
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
