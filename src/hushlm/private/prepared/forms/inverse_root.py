"""Inverse roots of rows' mean squares online: one call of comparisons says which polynomial each number takes, products from material."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.polynomial import Polynomial
from numpy.polynomial.chebyshev import Chebyshev

from hushlm.plan import ROOT_LIMITS, ROOT_LOW_LIMITS
from hushlm.private.engine.shares import Words, encode
from hushlm.private.engine.small_ring import SmallWords
from hushlm.private.prepared.desk import SMALL_RING_BITS, Desk

__all__ = ["inverse_roots", "root_pieces"]

Multiply = Callable[[Words, Words], Words]

DEGREE = 3

LOW_BITS = 20
"""Fraction bits of what is compared with the low limits."""


@cache
def root_pieces() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each piece between limits: the exponent k (P,), the middle m (P,), and the coefficients (P, 4), lowest power first.

    They are those of a polynomial p with 1/sqrt(x) = p(x 2^-k - m) 2^(-k/2) nearly, which interpolates at Chebyshev's points.
    """
    edges = np.array([ROOT_LIMITS[0] / 2, *ROOT_LIMITS, ROOT_LIMITS[-1] * 2])
    exponents = np.floor(np.log2(edges[:-1]) + 1e-9)
    low, high = edges[:-1] / 2**exponents, edges[1:] / 2**exponents
    middles = (low + high) / 2
    coefficients = []
    for start, end, middle in zip(low, high, middles, strict=True):
        near = Chebyshev.interpolate(lambda v, middle=middle: (v + middle) ** -0.5, DEGREE, [start - middle, end - middle])
        coefficients.append(near.convert(kind=Polynomial).coef)
    return exponents, middles, np.array(coefficients)


def inverse_roots(desk: Desk, lengths_N: Words, width: int, epsilon: float, multiply: Multiply) -> Words:
    """1 / sqrt(mean square + epsilon) of rows of `width` numbers, from their squared lengths with twice the fraction bits.

    With s = (squared length + width epsilon) 2^-m, 2^m being the first power of two that is not below the width, bits of s >= limit say
    in which piece s lies. Whatever depends on the piece alone is a sum over these bits with public factors: 2^-k, which brings s to
    v = 2^-k s - middle, and the coefficients F of y = F0 + F1 v + v^2 (F2 + F3 v).

    Low bits of both parties' words, moved down by at most 32, are shares of the number moved down, one unit off at most: what is lost at
    the top of either word is a multiple of 2^32. So what is compared needs no truncation.

    Args:
        multiply: products with twice the fraction bits; takes one item of material a call, of N, 2N and 2N products.
    """
    bits, shift = desk.fraction_bits, (width - 1).bit_length()
    whole = 2 * bits + shift
    raw = lengths_N + desk.constant(epsilon * width, 2 * bits)
    reached = _reached(desk, raw, whole)
    ones = desk.where(reached, np.broadcast_to(desk.constant(1.0, 0), reached.shape))

    def of_piece(values_P: np.ndarray) -> Words:
        words = encode(values_P, bits)
        return (ones * np.diff(words)[:, None]).sum(0, dtype=np.uint64) + (words[0] if desk.is_client else np.uint64(0))

    exponents, middles, coefficients = root_pieces()
    factors = coefficients * (2 ** (-exponents / 2) * (width / 2**shift) ** 0.5)[:, None]
    f0, f1, f2, f3 = (of_piece(factors[:, power]) for power in range(DEGREE + 1))
    scaled = desk.divide(multiply(desk.truncate(raw), of_piece(2.0**-exponents)), bits + shift)
    v = scaled - of_piece(middles)
    v2, f3v = desk.truncate(multiply(np.stack([v, f3]), np.stack([v, v])))
    return desk.truncate(multiply(np.stack([f1, v2]), np.stack([v, f2 + f3v])).sum(0, dtype=np.uint64)) + f0


def _reached(desk: Desk, raw_N: Words, whole: int) -> SmallWords:
    """Shared bits (L, N) of "at least this limit", for raw_N 2^-whole."""
    import jax.numpy as jnp

    # As many bits less as leave the largest number of a ring of 64 bits in one of 32.
    high_bits = whole - SMALL_RING_BITS
    units = np.where(np.arange(len(ROOT_LIMITS)) < ROOT_LOW_LIMITS, LOW_BITS, high_bits)
    limits = np.rint(np.minimum(np.array(ROOT_LIMITS) * 2.0**units, 2.0 ** (SMALL_RING_BITS - 1) - 1)).astype(np.int32)
    low, high = raw_N >> np.uint64(whole - LOW_BITS), raw_N >> np.uint64(whole - high_bits)

    def program(low_N: Any, high_N: Any) -> Any:
        both = jnp.concatenate([
            jnp.broadcast_to(low_N, (ROOT_LOW_LIMITS, *low_N.shape)),
            jnp.broadcast_to(high_N, (len(ROOT_LIMITS) - ROOT_LOW_LIMITS, *high_N.shape)),
        ])  # fmt: skip
        bits = both >= limits[:, None]
        # Where the low unit overflows, the first of the other limits is reached, and so are all below it.
        return jnp.concatenate([bits[:ROOT_LOW_LIMITS] | bits[ROOT_LOW_LIMITS], bits[ROOT_LOW_LIMITS:]])

    (reached,) = desk.small(("root limits", whole), program, [low, high])
    return reached
