"""Into which engine calls a product is cut: the choices of a plan, by rough prices; the cost room has the exact ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from hushlm.plan.engine_tiles import POLYNOMIAL_BYTES, SLOTS, ceil_div, product_blocks, tile_product

__all__ = ["Cut", "few_squares", "product_cut", "scaling_block", "squares_block"]


@dataclass(frozen=True)
class Cut:
    """A product (rows, inner) x (inner, outer) as several.

    Attributes:
        rows: of the left matrix in one product.
        columns: of the left matrix in one product; the partial products are added.
    """

    rows: int
    columns: int


@lru_cache(maxsize=4096)
def product_cut(rows: int, inner: int, outer: int, encoded_bytes: float = 2e9) -> Cut:
    """How to cut a product with a server's matrix: fewest bytes within the server's memory, then least work.

    The server holds polynomials in number proportional to rows x inner x outer while a product lasts. Cut by rows, the bytes stay
    the same until tiles or answers no longer fill whole ciphertexts; cut by inner columns, answers are sent again for each part; cut
    by outer columns the requests would be, so that is never done.
    """
    best, least = Cut(1, inner), (math.inf, math.inf)
    for parts in range(1, 9):
        columns = -(-inner // parts)
        for together in [2**k for k in range(rows.bit_length()) if 2**k < rows] + [rows]:
            size, work, held = 0.0, 0, 0
            for count, part in ((rows // together, together), (1, rows % together)):
                for start in range(0, inner, columns) if count and part else ():
                    for block in product_blocks(part, min(columns, inner - start), outer):
                        tiling = tile_product(*block)
                        size += count * (tiling.requests * REQUEST_BYTES + tiling.responses * ANSWER_BYTES)
                        work += count * (KEY_SWITCH_WORK * tiling.key_switches + tiling.multiplications)
                        held = max(held, tiling.plaintexts)
            if (size, work) < least and (held * POLYNOMIAL_BYTES <= encoded_bytes or (together, parts) == (1, 8)):
                best, least = Cut(together, columns), (size, work)
    return best


REQUEST_BYTES, ANSWER_BYTES = 185_000, 254_400
"""A ciphertext on its way there and back, to weigh one against the other; the cost room has the exact figures."""
BARE_ANSWER_BYTES, KEPT_BYTES = 127_300, 16.7
"""An answer that is not packed, and each coefficient left in it."""
KEY_SWITCH_WORK = 100
"""A key switch of the packing in multiplications of polynomials."""
STORED_PRODUCT_BYTES = 246
"""A product of two secret numbers drawn from the engine's stock of triples, as it does below 2 x `SLOTS` of them."""
HALF_PRODUCT_BYTES = 1_350_000
"""`SLOTS` products computed directly, of one half of the elements: each half is rounded up to whole ciphertexts."""
SQUARE_BYTES = 865_000
"""`SLOTS` of the engine's built-in squares; beyond that many elements halves are rounded up, as for products."""
ROUND_BYTES = 100_000
"""Bytes that a round trip is worth: 0.8 ms over 1 Gbit/s, 8 ms over 100 Mbit/s; on a WAN it takes ten times that, on a LAN less."""


LARGEST_BLOCK = 256
"""Products with larger diagonal matrices move as much in fewer round trips, but multiply more polynomials (measured, 1536 x 64:
13.3 CPU s in blocks of 128 rows, 14.7 in 256, 20.1 in 512)."""


def _elementwise_bytes(n: int) -> float:
    if n < 2 * SLOTS:
        return STORED_PRODUCT_BYTES * n
    return HALF_PRODUCT_BYTES * (ceil_div(n // 2, SLOTS) + ceil_div(n - n // 2, SLOTS))


def _shared_product_bytes(rows: int, inner: int, outer: int) -> float:
    """Both cross terms of a product of two secret matrices, and the round trips that they are worth."""
    tiling = tile_product(rows, inner, outer)
    kept = tiling.kept
    answers = tiling.responses * ANSWER_BYTES if kept is None else tiling.responses * BARE_ANSWER_BYTES + kept * KEPT_BYTES
    return 2 * (tiling.requests * REQUEST_BYTES + answers) + ROUND_BYTES


def _cheapest_block(rows: int, elementwise: float, product: Callable[[int], tuple[int, int, int]]) -> int:
    best, least = 0, elementwise
    for block in sorted({min(2**k, rows) for k in range(LARGEST_BLOCK.bit_length())}):
        whole, rest = divmod(rows, block)
        size = whole * _shared_product_bytes(*product(block)) + (_shared_product_bytes(*product(rest)) if rest else 0)
        if size < least:
            best, least = block, size
    return best


@lru_cache(maxsize=4096)
def scaling_block(rows: int, width: int) -> int:
    """How to multiply each row of a secret (rows, width) by a secret number of its own.

    As diag(numbers) x, a matrix product whose zeros are public and free: a ciphertext holds more of it than of single products.

    Returns:
        Rows of one such product; 0 where single products are cheaper.
    """
    return _cheapest_block(rows, _elementwise_bytes(rows * width), lambda block: (block, block, width))


@lru_cache(maxsize=4096)
def squares_block(rows: int, width: int) -> int:
    """How to sum the squares of each row of a secret (rows, width): as the diagonal of x x^T.

    Returns:
        Rows of one such product; 0 where single products are cheaper.
    """
    return _cheapest_block(rows, _elementwise_bytes(rows * width), lambda block: (block, width, block))


@lru_cache(maxsize=4096)
def few_squares(n: int) -> int:
    """Of n secret numbers to be squared, how many are better multiplied with themselves: what would half fill ciphertexts."""

    def built_in(count: int) -> int:
        return 1 if count <= SLOTS else ceil_div(count // 2, SLOTS) + ceil_div(count - count // 2, SLOTS)

    rest = n % (2 * SLOTS)
    saved = SQUARE_BYTES * (built_in(n) - (built_in(n - rest) if n > rest else 0))
    extra_rounds = 2 if n > rest else 0
    return rest if saved > STORED_PRODUCT_BYTES * rest + ROUND_BYTES * extra_rounds else 0
