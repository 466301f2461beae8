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

__all__ = ["POLYNOMIAL_BYTES", "SLOTS", "Cut", "ProductTiling", "product_blocks", "product_cut", "tile_product"]

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
        key_switches: of the packing; nearly all of its time.
        multiplications: of a plaintext and a ciphertext.
    """

    requests: int
    responses: int
    kept: int | None
    left_encrypts: bool
    plaintexts: int
    key_switches: int
    multiplications: int


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _tile(rows: int, inner: int, outer: int, packed: bool) -> tuple[int, int, int]:
    """The engine's choice of (d0, d1, d2); the last of equally good ones."""
    best, chosen = math.inf, (1, 1, 1)
    for d0 in range(1, min(SLOTS, rows) + 1):
        blocks0, d1 = _ceil(rows, d0), 1
        while d1 <= inner and d0 * d1 <= SLOTS:
            d2 = min(outer, SLOTS // d0 // d1)
            blocks1, blocks2 = _ceil(inner, d1), _ceil(outer, d2)
            ciphertexts = min(blocks0, blocks2) * blocks1 + _ceil(blocks0 * blocks2, d1)
            switches = _ceil(rows * outer, SLOTS) * d1 if packed else 0
            price = 1000.0 * ciphertexts + switches + blocks0 * blocks1 * blocks2 / 10.0
            if price <= best:
                best, chosen = price, (d0, d1, d2)
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
        responses, kept, switches = results, rows * outer, 0
    elif d1 < rows * outer:
        responses, kept, switches = _ceil(results, d1), None, results
    else:
        responses, kept, switches = _ceil(rows * outer, SLOTS), None, rows * outer
    return ProductTiling(
        requests=min(left, right),
        responses=responses,
        kept=kept,
        left_encrypts=left <= right,
        plaintexts=max(left, right),
        key_switches=switches,
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
KEY_SWITCH_WORK = 100
"""A key switch of the packing in multiplications of polynomials."""
