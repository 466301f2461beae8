"""How much work making material is, known from its needs alone, in one unit for all kinds of need."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from hushlm.plan.needs import (
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

__all__ = ["ATTEND_WORK", "DOUBLE_WORK", "ELEMENT_WORK", "material_work"]

# The unit is one multiplication of a product with weights. Products of two shared matrices and elementwise products fill ciphertexts less
# well. Ratios of CPU seconds, rounded: good enough to say how far the work is, and for nothing else.
ATTEND_WORK = 14.0
ELEMENT_WORK = 60.0
DOUBLE_WORK = 1.7 * ELEMENT_WORK


def material_work(needs: Iterable[Need]) -> float:
    """Work of both parties to make material for these needs, in multiplications with weights."""
    return sum(_work(need) for need in needs)


def _work(need: Need) -> float:
    match need:
        case ProjectNeed(_, rows, inner, outer):
            return float(rows * inner * outer)
        case LookUpNeed(width=width):
            return float(need.client_words * width)
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
