"""How the engine cuts a matrix product into ciphertexts: facts of Cheetah (SPU 0.9.5), ring of 64 bits.

A product (rows, inner) x (inner, outer) is computed on polynomials of `SLOTS` coefficients. One side encrypts its matrix
(requests), the other multiplies with its own matrix in plaintext and answers (responses), packed by key switching. The
engine chooses the tile (d0, d1, d2), d0 d1 d2 <= SLOTS, that minimises 1000 (requests + responses) + key switches
+ 0.1 multiplications, and the side that encrypts is the one with fewer polynomials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

__all__ = [
    "POLYNOMIAL_BYTES",
    "SLOTS",
    "Cut",
    "ProductTiling",
    "few_squares",
    "product_blocks",
    "product_cut",
    "scaling_block",
    "squares_block",
    "tile_product",
]

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


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _tile(rows: int, inner: int, outer: int, packed: bool) -> tuple[int, int, int]:
    """The engine's choice of (d0, d1, d2); of equally good ones the last that a loop over d0, then d1, meets.

    With d1 given, as many blocks of rows and more blocks of columns are never better, so that of all d0 with as many blocks of rows the
    first decides, and only each number of blocks is looked at.
    """
    best, chosen = (math.inf, 0, 0), (1, 1, 1)
    d1 = 1
    while d1 <= min(inner, SLOTS):
        blocks1, most, d0 = _ceil(inner, d1), min(rows, SLOTS // d1), 1
        switches = _ceil(rows * outer, SLOTS) * d1 if packed else 0
        while d0 <= most:
            d2 = min(outer, SLOTS // d0 // d1)
            blocks0, blocks2 = _ceil(rows, d0), _ceil(outer, d2)
            following = (rows - 1) // (blocks0 - 1) + 1 if blocks0 > 1 else rows + 1
            ciphertexts = min(blocks0, blocks2) * blocks1 + _ceil(blocks0 * blocks2, d1)
            price = 1000.0 * ciphertexts + switches + blocks0 * blocks1 * blocks2 / 10.0
            if price <= best[0]:
                # The last d0 with as many blocks both ways.
                last = max(d0, min(most, following - 1, SLOTS // d1 // _ceil(outer, blocks2)))
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
    blocks0, blocks1, blocks2 = _ceil(rows, d0), _ceil(inner, d1), _ceil(outer, d2)
    results = blocks0 * blocks2
    packed = packing and results > 1
    if packing and not packed:
        d0, d1, d2 = _tile(rows, inner, outer, packed=False)
        blocks0, blocks1, blocks2 = _ceil(rows, d0), _ceil(inner, d1), _ceil(outer, d2)
        results = blocks0 * blocks2
    left, right = blocks0 * blocks1, blocks1 * blocks2
    if not packed:
        responses, kept, switches, merges = results, rows * outer, 0, 0
    elif d1 < rows * outer:
        responses, kept, switches = _ceil(results, d1), None, results
        together = _ceil(results, responses)
        merges = results - responses + results * ((d1 // together).bit_length() - 1)
    else:
        responses, kept, switches = _ceil(rows * outer, SLOTS), None, rows * outer
        # Single coefficients take about half the time (measured).
        merges = _ceil(switches, 2)
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
    return HALF_PRODUCT_BYTES * (_ceil(n // 2, SLOTS) + _ceil(n - n // 2, SLOTS))


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
        return 1 if count <= SLOTS else _ceil(count // 2, SLOTS) + _ceil(count - count // 2, SLOTS)

    rest = n % (2 * SLOTS)
    saved = SQUARE_BYTES * (built_in(n) - (built_in(n - rest) if n > rest else 0))
    extra_rounds = 2 if n > rest else 0
    return rest if saved > STORED_PRODUCT_BYTES * rest + ROUND_BYTES * extra_rounds else 0
