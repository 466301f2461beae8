"""What making and keeping material takes, known from its needs alone: bytes at each party, and work in one unit for all kinds of need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from hushlm.private.prepared.needs import (
    AttendNeed,
    CentreNeed,
    MultiplyNeed,
    Need,
    ProjectNeed,
    ScaleNeed,
    ScaleRowsNeed,
    SquareNeed,
)

__all__ = ["ATTEND_WORK", "DOUBLE_WORK", "ELEMENT_WORK", "material_bytes", "material_work"]

WORD = 8

# The unit is one multiplication of a product with weights. Products of two shared matrices and elementwise products fill ciphertexts less
# well. Ratios of CPU seconds, rounded: good enough to say how far the work is, and for nothing else.
ATTEND_WORK = 14.0
ELEMENT_WORK = 60.0
DOUBLE_WORK = 1.7 * ELEMENT_WORK


def material_bytes(needs: Iterable[Need], client: bool) -> int:
    """Bytes of masks and products that a party keeps for these needs, the same as `Material.size_bytes`."""
    return sum(_bytes(need, client) for need in needs)


def material_work(needs: Iterable[Need]) -> float:
    """Work of both parties to make material for these needs, in multiplications with weights."""
    return sum(_work(need) for need in needs)


def _bytes(need: Need, client: bool) -> int:
    match need:
        case ProjectNeed(_, rows, inner, outer, ring_bits):
            return WORD * rows * outer + (rows * inner * ring_bits // 8 if client else 0)
        case ScaleNeed(heads, rows, width):
            return WORD * heads * rows * (width + (width if client else 1))
        case AttendNeed(_, side, heads, rows, width, _, new):
            product = need.opened if side == "keys" else width
            return WORD * heads * (rows * need.left_width + new * width + rows * product)
        case SquareNeed(elements):
            return WORD * 2 * elements
        case ScaleRowsNeed(rows, width):
            return WORD * (2 * rows * width + rows)
        case CentreNeed(rows, width):
            return WORD * (2 * rows * width + 2 * rows)
        case MultiplyNeed(elements):
            return WORD * 3 * elements
        case _:
            assert_never(need)


def _work(need: Need) -> float:
    match need:
        case ProjectNeed(_, rows, inner, outer):
            return float(rows * inner * outer)
        case AttendNeed(_, _, heads, rows, width):
            return ATTEND_WORK * heads * rows * need.opened * width
        case ScaleNeed(heads, rows, width):
            return ELEMENT_WORK * heads * rows * width
        case SquareNeed(elements):
            return ELEMENT_WORK * elements
        case ScaleRowsNeed(rows, width):
            return DOUBLE_WORK * rows * width
        case CentreNeed(rows, width):
            return (ELEMENT_WORK + DOUBLE_WORK) * rows * width
        case MultiplyNeed(elements):
            return DOUBLE_WORK * elements
        case _:
            assert_never(need)
