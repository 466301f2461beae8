"""How a plan cuts each product into calls of the engine.

The cuts are chosen by the rough prices below; `hushlm.cost` has the exact ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from hushlm.plan.engine_tiles import POLYNOMIAL_BYTES, SLOTS, ceil_div, product_blocks, tile_product

__all__ = ["Cut", "few_squares", "product_bytes", "product_cut", "scaling_block", "squares_block"]


@dataclass(frozen=True)
class Cut:
    """How a product (rows, inner) x (inner, outer) is computed as several smaller ones.

    Attributes:
        rows: how many rows of the left matrix are in one of them.
        columns: how many columns of the left matrix are in one of them; the partial products are added.
    """

    rows: int
    columns: int


def product_cut(rows: int, inner: int, outer: int, encoded_bytes: float = 2e9) -> Cut:
    """The cut of a product with a server's matrix that moves the fewest bytes within the server's memory, and of these does least work.

    While a product lasts, the server holds a number of polynomials proportional to rows x inner x outer. A cut by rows does not change
    the bytes until tiles or answers no longer fill whole ciphertexts. A cut by inner columns repeats the answers for each part. A cut by
    outer columns would repeat the requests, so that this is never done.

    Args:
        rows, inner, outer: the sizes of the product.
        encoded_bytes: the server's memory for the polynomials of one product.
    """
    return _cut_and_bytes(rows, inner, outer, encoded_bytes)[0]


def product_bytes(rows: int, inner: int, outer: int, encoded_bytes: float = 2e9) -> float:
    """About how many bytes a product moves in the cut that `product_cut` chooses."""
    return _cut_and_bytes(rows, inner, outer, encoded_bytes)[1]


@lru_cache(maxsize=4096)
def _cut_and_bytes(rows: int, inner: int, outer: int, encoded_bytes: float) -> tuple[Cut, float]:
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
    return best, least[0]


REQUEST_BYTES, ANSWER_BYTES = 185_000, 254_400
"""The size of a ciphertext on its way there and of one on its way back, to weigh one against the other."""
BARE_ANSWER_BYTES, KEPT_BYTES = 127_300, 16.7
"""The size of an answer that is not packed, and of each coefficient that is left in it."""
KEY_SWITCH_WORK = 100
"""How many multiplications of polynomials take as long as one of the key switches that pack answers."""
STORED_PRODUCT_BYTES = 246
"""The bytes of a product of two secret numbers that takes a triple from the engine's stock, as it does below 2 x `SLOTS` of them."""
HALF_PRODUCT_BYTES = 1_350_000
"""The bytes of `SLOTS` products computed directly. The elements are halved, and each half is rounded up to whole ciphertexts."""
SQUARE_BYTES = 865_000
"""The bytes of `SLOTS` of the engine's built-in squares. More elements than that are halved and rounded up, as for products."""
ROUND_BYTES = 100_000
"""How many bytes a round trip is taken to be worth. They take 0.8 ms over 1 Gbit/s and 8 ms over 100 Mbit/s; a round trip takes ten times
as long as the latter over a wide-area network, and less than the former over a local one."""


LARGEST_BLOCK = 256
"""The most rows of one product with a diagonal matrix. Larger products move as many bytes in fewer round trips, but multiply more
polynomials (measured for 1536 x 64: 13.3 CPU seconds in blocks of 128 rows, 14.7 in blocks of 256, 20.1 in blocks of 512)."""


def _elementwise_bytes(n: int) -> float:
    """The bytes of n products of two secret numbers."""
    if n < 2 * SLOTS:
        return STORED_PRODUCT_BYTES * n
    return HALF_PRODUCT_BYTES * (ceil_div(n // 2, SLOTS) + ceil_div(n - n // 2, SLOTS))


def _shared_product_bytes(rows: int, inner: int, outer: int) -> float:
    """The bytes of both cross terms of a product of two secret matrices, with what its round trip is worth in bytes."""
    tiling = tile_product(rows, inner, outer)
    kept = tiling.kept
    answers = tiling.responses * ANSWER_BYTES if kept is None else tiling.responses * BARE_ANSWER_BYTES + kept * KEPT_BYTES
    return 2 * (tiling.requests * REQUEST_BYTES + answers) + ROUND_BYTES


def _cheapest_block(rows: int, elementwise: float, product: Callable[[int], tuple[int, int, int]]) -> int:
    """How many rows to put into one matrix product, or 0 where the `elementwise` bytes of single products are fewer.

    Args:
        rows: how many rows there are.
        elementwise: the bytes of single products.
        product: the sizes of the matrix product for a number of rows.
    """
    best, least = 0, elementwise
    for block in sorted({min(2**k, rows) for k in range(LARGEST_BLOCK.bit_length())}):
        whole, rest = divmod(rows, block)
        size = whole * _shared_product_bytes(*product(block)) + (_shared_product_bytes(*product(rest)) if rest else 0)
        if size < least:
            best, least = block, size
    return best


@lru_cache(maxsize=4096)
def scaling_block(rows: int, width: int) -> int:
    """How to multiply each row of a secret matrix x (rows, width) by a secret number of its own.

    It can be computed as diag(numbers) x, a matrix product whose zeros are public and free: a ciphertext holds more of a matrix product
    than of single products.

    Returns:
        The rows of one such matrix product, or 0 where single products are cheaper.
    """
    return _cheapest_block(rows, _elementwise_bytes(rows * width), lambda block: (block, block, width))


@lru_cache(maxsize=4096)
def squares_block(rows: int, width: int) -> int:
    """How to sum the squares of each row of a secret matrix x (rows, width), which are the diagonal of x x^T.

    Returns:
        The rows of one such matrix product, or 0 where single products are cheaper.
    """
    return _cheapest_block(rows, _elementwise_bytes(rows * width), lambda block: (block, width, block))


@lru_cache(maxsize=4096)
def few_squares(n: int) -> int:
    """How many of n secret numbers are better multiplied with themselves than squared by the engine's built-in square.

    These are the ones that are left over when whole ciphertexts have been filled, if there are few of them.
    """

    def built_in(count: int) -> int:
        return 1 if count <= SLOTS else ceil_div(count // 2, SLOTS) + ceil_div(count - count // 2, SLOTS)

    rest = n % (2 * SLOTS)
    saved = SQUARE_BYTES * (built_in(n) - (built_in(n - rest) if n > rest else 0))
    extra_rounds = 2 if n > rest else 0
    return rest if saved > STORED_PRODUCT_BYTES * rest + ROUND_BYTES * extra_rounds else 0
