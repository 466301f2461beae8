"""Polynomials in place of the engine's built-in functions, as array programs. They take fewer bytes and rounds on the ranges that occur.

Each is written once for an array namespace `xp` (numpy or jax.numpy). A linear combination with public coefficients is written as a matrix
product with a public matrix, because that is truncated once and not once for each term.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.polynomial import Polynomial
from numpy.polynomial.chebyshev import Chebyshev

from hushlm.architectures import GATE_BOUND, GATE_QUADRATIC
from hushlm.plan import halvings

__all__ = [
    "GELU_BOUND",
    "GELU_COEFFICIENTS",
    "SILU_BOUND",
    "SILU_COEFFICIENTS",
    "SILU_SCALE",
    "gelu",
    "quadratic_gate",
    "quartic_terms",
    "reciprocal",
    "reciprocal_terms",
    "silu",
    "smooth_relu",
    "square",
]

Array = Any

GELU_BOUND = 3.3
GELU_COEFFICIENTS = (4.6082671614e-05, -0.0296691671, 0.5299938385, -0.1785576044, 0.0201788624)
"""The even part of GELU, which is GELU(x) - x/2, as a polynomial of degree 4 in |x| on [0, `GELU_BOUND`], lowest power first.

It is the minimax fit to GPT-2's GELU among those that meet |x|/2 at the bound, beyond which the even part goes on as |x|/2. The error is at
most 0.0021 everywhere.
"""

SILU_SCALE = 0.5
"""SiLU(g) = S(h) / `SILU_SCALE` with h = `SILU_SCALE` g and S(h) = h sigmoid(2h) = h/2 (1 + tanh h), which is as steep as GELU."""
SILU_BOUND = 3.2
SILU_COEFFICIENTS = (0.0, 0.020972317196, 0.52781213742, -0.19770207029, 0.024856507654)
"""The even part of S, as `GELU_COEFFICIENTS` are that of GELU. The error is at most 0.0054 everywhere."""


def square(xp: ModuleType, x: Array, built_in: bool) -> Array:
    """x^2, elementwise.

    Args:
        built_in: whether to use the engine's cheap square, inside its exponential (1 + z/2)^2 at z = 2(x - 1), for which the engine's
            setting `exponential_squarings` must be 1. Otherwise the square is x * x.
    """
    if xp is np or not built_in:
        return x * x
    less = x - 1.0
    return xp.exp(less + less)


def quartic_terms(coefficients: tuple[float, ...]) -> tuple[float, float, float, float, float]:
    """c4, p, q, r, s of an even part, c4 ((v + p)^2 + q)^2 + s v + r."""
    c0, c1, c2, c3, c4 = coefficients
    p = c3 / (4 * c4)
    q = c2 / (2 * c4) - 3 * p * p
    return c4, p, q, c0 - c4 * (p * p + q) ** 2, c1 - 4 * p * (p * p + q) * c4


def gelu(xp: ModuleType, x: Array, built_in_squares: bool) -> Array:
    """GELU as x/2 + g(|x|), with g from `GELU_COEFFICIENTS`."""
    return _even_quartic(xp, x, GELU_COEFFICIENTS, GELU_BOUND, built_in_squares)


def silu(xp: ModuleType, h: Array, built_in_squares: bool) -> Array:
    """S(h) of `SILU_SCALE` as h/2 + g(|h|), with g from `SILU_COEFFICIENTS`."""
    return _even_quartic(xp, h, SILU_COEFFICIENTS, SILU_BOUND, built_in_squares)


def quadratic_gate(xp: ModuleType, h: Array, curve: Array, built_in_squares: bool) -> Array:
    """q (v + p)^2 + (h + |h|)/2 + r with v = min(|h|, B) and the curve p, r. Each element takes a sign, a clip and a square."""
    size = xp.where(h < 0.0, -h, h)
    inner = square(xp, xp.minimum(size, GATE_BOUND) + curve[0], built_in_squares)
    return xp.stack([inner, h + size], -1) @ np.array([GATE_QUADRATIC, 0.5], np.float32) + curve[1]


def _even_quartic(xp: ModuleType, x: Array, coefficients: tuple[float, ...], bound: float, built_in_squares: bool) -> Array:
    """x/2 + g(|x|), with g a polynomial of degree 4 up to the bound and |x|/2 beyond. Each element takes a sign, a clip and two squares.

    The polynomial is written as two nested squares and a linear term, c4 ((v + p)^2 + q)^2 + s v + r.
    """
    c4, p, q, r, s = quartic_terms(coefficients)
    size = xp.where(x < 0.0, -x, x)
    v = xp.minimum(size, bound)
    inner = square(xp, v + p, built_in_squares) + q
    outer = square(xp, inner, built_in_squares)
    # c4 outer + s v + r + (x + |x| - v) / 2
    terms = xp.stack([outer, v, x + size], -1)
    return terms @ np.array([c4, s - 0.5, 0.5], np.float32) + r


def smooth_relu(xp: ModuleType, x: Array, built_in_squares: bool) -> Array:
    """x where x > 1, 0 where x < -1, and (x + 1)^2 / 4 between them: the activation of architectures with P.

    Each element takes two comparisons and a square.
    """
    # With minimum and maximum this would be compiled to a clamp and another minimum, which are three comparisons.
    low = xp.where(x < 1.0, x, 1.0)
    return square(xp, xp.where(low < -1.0, 0.0, low + 1.0), built_in_squares) * 0.25 + (x - low)


RECIPROCAL_DEGREE = 6


def _reciprocal_coefficients() -> np.ndarray:
    """The coefficients, lowest power first, of the polynomial p(v) that is nearest to 1/(1.5 + v) for |v| <= 1/2.

    It has 1 - (1.5 + v) p(v) = T7(-2v) / T7(3), with the Chebyshev polynomial T7, which is the least relative error possible: 9e-6.
    """
    chebyshev = Chebyshev.basis(RECIPROCAL_DEGREE + 1)
    residual = chebyshev.convert(kind=Polynomial)(Polynomial([0.0, -2.0])) / chebyshev(3.0)
    quotient, _ = divmod(1 - residual, Polynomial([1.5, 1.0]))
    return quotient.coef


RECIPROCAL_COEFFICIENTS = _reciprocal_coefficients()


EXACT_SCALE = 0.625
"""Near the scale that `RECIPROCAL_COEFFICIENTS` have, and exact in fixed point also when it is divided by large powers of two."""


def reciprocal_terms(exact_scale: bool = False) -> tuple[tuple[float, ...], float]:
    """Coefficients b0 to b5 of the polynomial of `reciprocal` in its scaled argument, and the scale, which makes b6 equal to 1.

    Args:
        exact_scale: take `EXACT_SCALE`. The highest coefficient then differs by 3%, for which the multiple of T6 that has the same
            difference makes up: the relative error becomes 1.5e-5.
    """
    coefficients, scale = RECIPROCAL_COEFFICIENTS, RECIPROCAL_COEFFICIENTS[-1] ** (1 / RECIPROCAL_DEGREE)
    if exact_scale:
        leveller = Chebyshev.basis(RECIPROCAL_DEGREE, domain=(-0.5, 0.5)).convert(kind=Polynomial).coef
        coefficients = coefficients + leveller * ((EXACT_SCALE**RECIPROCAL_DEGREE - coefficients[-1]) / leveller[-1])
        scale = EXACT_SCALE
    return tuple((coefficients / scale ** np.arange(RECIPROCAL_DEGREE + 1))[:RECIPROCAL_DEGREE]), scale


def reciprocal(xp: ModuleType, x: Array, largest: int, smallest: float = 1.0) -> Array:
    """1 / x for a flat vector of `smallest` <= x <= `largest`, with a relative error of 9e-6 in exact arithmetic.

    Comparisons with 2, 4, ... times `smallest`, a power of two, all at once, bring x to c = x / (2^k smallest) in [1, 2]. There a
    polynomial of degree 6 takes three products, and its value is divided by the same number. To divide by 2^k, values are multiplied by
    2^(m - k), where 2^m is the largest divisor, and then truncated once by 2^m.
    """
    steps = halvings(round(largest / smallest))
    divisor = smallest * 2.0**steps
    limits = np.float32(smallest) * 2.0 ** np.arange(1, steps + 1, dtype=np.float32)
    below = x[None] < limits[:, None]

    def times_power(values: Array) -> Array:
        """`values` times 2^(steps - k), by additions alone.

        The factor is 2^steps minus 2^(steps - j) for every limit 2^j that x is not below.
        """
        kept = xp.where(below, 0.0, xp.broadcast_to(values[None], below.shape))
        dropped, whole = kept[0], values + values
        for j in range(1, steps):
            dropped, whole = dropped + dropped + kept[j], whole + whole
        return whole - dropped

    (b0, b1, b2, b3, b4, b5), scale = reciprocal_terms(exact_scale=smallest != 1)
    v = (times_power(x) if steps else x) * (scale / divisor) - 1.5 * scale
    v2 = v * v
    v3 = v2 * v
    powers = xp.stack([v, v2], -1)
    low, high = powers @ np.array([b1, b2], np.float32), powers @ np.array([b4, b5], np.float32)
    y = v3 * (v3 + high + b3) + low + b0
    return times_power(y) * (1 / divisor) if steps else y
