"""What making the material of prepared answers moves, and what is kept of it: `hushlm.private.prepared.offline` as prices.

Every product is one of the engine's own, of whole numbers and without truncation, so that the prices of today's products hold here too.
Answers of one batch share products: all rows that meet a weight are multiplied together, and so are all single numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import groupby
from typing import assert_never

from hushlm.cost.exchange import Exchange
from hushlm.cost.primitives import Primitives
from hushlm.plan.cuts import product_cut
from hushlm.plan.engine_tiles import SHARE_BYTES
from hushlm.plan.needs import (
    IDENTITY_BYTES,
    MOST_ELEMENTS,
    SEED_BYTES,
    AttendNeed,
    CentreNeed,
    LookUpNeed,
    MultiplyNeed,
    Need,
    ProjectNeed,
    ScaleNeed,
    ScaleRowsNeed,
    SquareNeed,
)
from hushlm.plan.protocol_settings import SMALL_RING_BITS, SMALL_WORD_BYTES

__all__ = ["OfflineKind", "kept_bytes", "material_bytes", "offline_calls", "offline_exchanges"]


class OfflineKind(StrEnum):
    """What is multiplied offline."""

    EMBEDDING = "embedding"
    """The client's masks of one-hot rows with the server's table, or with its buckets."""
    WEIGHTS = "weights"
    """The client's masks with the server's weights."""
    CACHES = "keys and values"
    """Two shared matrices: masks of queries or of attention weights with masks of keys or values."""
    SQUARES = "squares"
    """Single numbers, one of either party: what masks' squares need, and products with the server's temperatures."""
    PRODUCTS = "products"
    """Single numbers, both shared."""
    IDENTITY = "identity"
    """What both halves have in common."""


def _single_numbers(need: Need) -> tuple[int, int]:
    """How many single numbers a need multiplies: one of either party, and both shared."""
    match need:
        case ScaleNeed(heads, rows, width):
            return heads * rows * width, 0
        case SquareNeed(elements):
            return elements, 0
        case CentreNeed(rows, width):
            return rows * width, rows * width
        case ScaleRowsNeed(rows, width):
            return 0, rows * width
        case MultiplyNeed(elements):
            return 0, elements
        case ProjectNeed() | LookUpNeed() | AttendNeed():
            return 0, 0
        case _:
            assert_never(need)


def _pieces(elements: int) -> list[int]:
    """The sizes of the calls in which so many single numbers are multiplied."""
    return [min(MOST_ELEMENTS, elements - start) for start in range(0, elements, MOST_ELEMENTS)]


def _weight_products(
    p: Primitives, needs: Sequence[ProjectNeed], count: int, encoded_bytes: float
) -> Iterator[tuple[OfflineKind, Exchange]]:
    """All rows that meet a weight together, cut as the server's memory allows."""
    rows: dict[tuple[str, int, int, int], int] = {}
    for need in needs:
        key = (need.weight, need.inner, need.outer, need.ring_bits)
        rows[key] = rows.get(key, 0) + count * need.rows
    for (_, inner, outer, ring_bits), together in rows.items():
        kind = OfflineKind.EMBEDDING if ring_bits == SMALL_RING_BITS else OfflineKind.WEIGHTS
        for exchange in _whole_product(p, together, inner, outer, encoded_bytes):
            yield kind, exchange


def _whole_product(p: Primitives, rows: int, inner: int, outer: int, encoded_bytes: float) -> Iterator[Exchange]:
    """The calls in which one product with a server's matrix is made."""
    cut = product_cut(rows, inner, outer, encoded_bytes)
    for height, times in ((cut.rows, rows // cut.rows), (rows % cut.rows, 1)):
        for low in range(0, inner, cut.columns) if height and times else ():
            yield p.product_private(height, min(cut.columns, inner - low), outer).times(times)


def _look_ups(p: Primitives, needs: Sequence[LookUpNeed], count: int, encoded_bytes: float) -> Iterator[Exchange]:
    """A product a bucket, with the slots of all answers, and one for each answer's choice among them."""
    for need, times in Counter(needs).items():
        for exchange in _whole_product(p, count * times * need.slots, need.dealt.columns, need.width, encoded_bytes):
            yield exchange.times(need.buckets)
        for exchange in _whole_product(p, need.rows, need.dealt.places, need.width, encoded_bytes):
            yield exchange.times(count * times)


def _cache_products(p: Primitives, needs: Sequence[AttendNeed]) -> Iterator[Exchange]:
    """Of one answer: for each cache one product a head for the first pass, and one for all further ones."""
    by_cache = groupby(sorted(needs, key=lambda need: need.cache), lambda need: need.cache)
    for group in (list(each) for _, each in by_cache):
        for part in (group[:1], group[1:]):
            if part:
                first, rows, last = part[0], sum(need.rows for need in part), part[-1].opened
                inner, outer = (first.width, last) if first.side == "keys" else (last, first.width)
                yield p.product_shared(rows, inner, outer).times(first.heads)


def offline_calls(
    needs: Sequence[Sequence[Need]], count: int, p: Primitives, encoded_bytes: float = 2e9
) -> Iterator[tuple[OfflineKind, Exchange]]:
    """Every product that makes the material of `count` answers together, without its share of refills and triple batches.

    Args:
        needs: of one answer, one list a pass, as `hushlm.plan.needs.answer_needs` gives them.
        count: how many answers are prepared in one go.
        p: the prices of calls of the engine's primitives.
        encoded_bytes: the server's memory for the encoded weights of one product; see `Rewrites.encoded_bytes`.
    """
    whole = [need for each in needs for need in each]
    yield from _weight_products(p, [need for need in whole if isinstance(need, ProjectNeed)], count, encoded_bytes)
    for exchange in _look_ups(p, [need for need in whole if isinstance(need, LookUpNeed)], count, encoded_bytes):
        yield OfflineKind.EMBEDDING, exchange
    own, shared = (count * sum(sizes) for sizes in zip(*map(_single_numbers, whole), strict=True))
    for piece in _pieces(own):
        yield OfflineKind.SQUARES, p.multiply_private(piece)
    for piece in _pieces(shared):
        yield OfflineKind.PRODUCTS, p.multiply(piece)
    for exchange in _cache_products(p, [need for need in whole if isinstance(need, AttendNeed)]):
        yield OfflineKind.CACHES, exchange.times(count)
    yield OfflineKind.IDENTITY, Exchange(forward_bytes=count * IDENTITY_BYTES, forward_messages=1)


def offline_exchanges(
    needs: Sequence[Sequence[Need]], count: int, p: Primitives, encoded_bytes: float = 2e9
) -> dict[OfflineKind, Exchange]:
    """The sums of `offline_calls` by kind, in the steady state: refills and batches of triples spread evenly over what uses them up."""
    found: dict[OfflineKind, Exchange] = {}
    for kind, exchange in offline_calls(needs, count, p, encoded_bytes):
        found[kind] = found.get(kind, Exchange()) + p.amortised(exchange)
    return found


def material_bytes(needs: Sequence[Sequence[Need]]) -> tuple[int, int]:
    """The bytes of one answer's masks and shares of products in the client's memory, while they are made and used, and in the server's."""
    parts = [_masks_and_products(need) for each in needs for need in each]
    return sum(client + product for client, _, product in parts), sum(server + product for _, server, product in parts)


def kept_bytes(needs: Sequence[Sequence[Need]]) -> tuple[int, int]:
    """The bytes of one answer that the client stores until the answer, and those that the server stores: shares of products, and the
    masks as their seed. What describes them comes on top, some hundred bytes a need."""
    products = sum(product for each in needs for _, _, product in map(_masks_and_products, each)) + SEED_BYTES
    return products, products


def _masks_and_products(need: Need) -> tuple[int, int, int]:
    """Bytes of the client's masks, of the server's, and of either's share of the products."""
    match need:
        case ProjectNeed(_, rows, inner, outer, ring_bits):
            return rows * inner * ring_bits // 8, 0, rows * outer * SHARE_BYTES
        case LookUpNeed(rows=rows, width=width):
            parts = need.client_words, need.server_words, (need.dealt.places + rows) * width
            return parts[0] * SMALL_WORD_BYTES, parts[1] * SMALL_WORD_BYTES, parts[2] * SMALL_WORD_BYTES
        case ScaleNeed(heads, rows, width):
            return heads * rows * width * SHARE_BYTES, heads * rows * SHARE_BYTES, heads * rows * width * SHARE_BYTES
        case AttendNeed(_, side, heads, rows, width, _, new):
            masks, products = heads * (rows * need.left_width + new * width), heads * rows * (need.opened if side == "keys" else width)
        case SquareNeed(elements):
            masks, products = elements, elements
        case ScaleRowsNeed(rows, width):
            masks, products = rows * (width + 1), rows * width
        case CentreNeed(rows, width):
            masks, products = rows * (width + 1), rows * (width + 1)
        case MultiplyNeed(elements):
            masks, products = 2 * elements, elements
        case _:
            assert_never(need)
    return masks * SHARE_BYTES, masks * SHARE_BYTES, products * SHARE_BYTES
