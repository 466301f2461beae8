"""Reciprocals of row sums online, as `hushlm.private.program.polynomials.reciprocal` has them: comparisons in the small ring, products
from material."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hushlm.plan import halvings
from hushlm.private.engine.shares import Words, encode
from hushlm.private.engine.small_ring import SmallWords
from hushlm.private.prepared.desk import Desk
from hushlm.private.program.polynomials import reciprocal_terms

__all__ = ["reciprocals"]

Square = Callable[[Words], Words]
Multiply = Callable[[Words, Words], Words]


def reciprocals(desk: Desk, x_N: Words, largest: int, square: Square, multiply: Multiply, smallest: float = 1.0) -> Words:
    """1 / x for `smallest` <= x <= `largest`.

    Bits of x >= 2^j smallest bring x to c = x / (2^k smallest) in [1, 2]; there a polynomial of degree 6 in v = scale (c - 1.5) is
    v^3 (v^3 + b5 v^2 + b4 v + b3) + b2 v^2 + b1 v + b0, and its value is divided by the same number.

    Args:
        square, multiply: take one item of material a call; there are one square and two products, in this order. The products have
            twice the fraction bits: what else has them is truncated with them, or added to them first.
    """
    steps, bits = halvings(round(largest / smallest)), desk.fraction_bits
    (b0, b1, b2, b3, b4, b5), scale = reciprocal_terms(exact_scale=smallest != 1)
    divisor = smallest * 2.0**steps
    at_least: SmallWords | None = None
    if steps:
        limits = smallest * 2.0 ** (np.arange(1, steps + 1) + bits)
        (at_least,) = desk.small(("limits", steps, smallest, bits), lambda v: v[None] >= limits[:, None].astype(np.int32), [x_N])

    def times_power(values: Words) -> Words:
        """`values` 2^(steps - k): 2^steps less 2^(steps - j) for every limit 2^j that x reaches."""
        if at_least is None:
            return values
        kept = desk.where(at_least, np.ascontiguousarray(np.broadcast_to(values, at_least.shape)))
        weights = np.uint64(1) << np.arange(steps - 1, -1, -1, dtype=np.uint64)
        return (values << np.uint64(steps)) - (kept * weights[:, None]).sum(0, dtype=np.uint64)

    def factor(value: float) -> Words:
        return encode(np.asarray(value), bits)

    v = desk.truncate(times_power(x_N) * factor(scale / divisor)) - desk.constant(1.5 * scale)
    v2 = square(v)
    v3, high = desk.truncate(np.stack([multiply(v2, v), v * factor(b4) + v2 * factor(b5)]))
    low = v * factor(b1) + v2 * factor(b2) + desk.constant(b0, 2 * bits)
    y = desk.truncate(multiply(v3, v3 + high + desk.constant(b3)) + low)
    return desk.divide(times_power(y), round(math.log2(divisor))) if steps else y
