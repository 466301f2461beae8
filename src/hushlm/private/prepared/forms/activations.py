"""FFN activations online: comparisons in the small ring, their bits select in the large one, squares from material."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from hushlm.architectures import GATE_BOUND, GATE_QUADRATIC
from hushlm.private.engine.shares import Words, encode
from hushlm.private.prepared.desk import Desk
from hushlm.private.program.polynomials import GELU_BOUND, GELU_COEFFICIENTS, SILU_BOUND, SILU_COEFFICIENTS, quartic_terms

__all__ = ["activate", "activate_gate"]

Square = Callable[[Words], Words]


def activate(
    desk: Desk, kind: Literal["relu", "squared-relu", "polynomial", "square", "gelu-quartic", "gelu-tanh"], x: Words, square: Square
) -> Words:
    """An activation of (T, F); `square` squares, using up one item of material a call."""
    match kind:
        case "relu":
            return _relu(desk, x)
        case "squared-relu":
            return square(_relu(desk, x))
        case "square":
            return square(x)
        case "polynomial":
            return _smooth_relu(desk, x, square)
        case "gelu-quartic":
            return _even_quartic(desk, x, GELU_COEFFICIENTS, GELU_BOUND, square)
        case "gelu-tanh":
            raise AssertionError("GELU by tanh has no prepared form")


def _relu(desk: Desk, x: Words) -> Words:
    (positive,) = desk.small("not negative", lambda v: v >= 0, [x])
    return desk.where(positive, x)


def _smooth_relu(desk: Desk, x: Words, square: Square) -> Words:
    """(min(max(x, -1), 1) + 1)^2 / 4 + max(x - 1, 0): two comparisons in one call, two selections in another, one square."""
    import jax.numpy as jnp

    one = 2**desk.fraction_bits
    limits = np.array([one, -one], np.int32)[:, None, None]
    (bits,) = desk.small(("joint", one), lambda v: jnp.broadcast_to(v, (2, *v.shape)) >= limits, [x])
    over, joint = desk.where(bits, np.stack([x - desk.constant(1.0), x + desk.constant(1.0)]))
    # Above 1 both bits are set, and x + 1 - (x - 1) = 2.
    return desk.divide(square(joint - over), 2) + over


def activate_gate(desk: Desk, h: Words, square: Square, curve: Words | None) -> Words:
    """SiLU's quartic of gates (T, F), or with a `curve` (2,) the quadratic, as `hushlm.private.program.polynomials` has them."""
    if curve is None:
        return _even_quartic(desk, h, SILU_COEFFICIENTS, SILU_BOUND, square)
    size, v = _clipped(desk, h, GATE_BOUND)
    factors = [encode(np.asarray(factor), desk.fraction_bits) for factor in (GATE_QUADRATIC, 0.5)]
    return desk.truncate(square(v + curve[0]) * factors[0] + (h + size) * factors[1]) + curve[1]


def _clipped(desk: Desk, x: Words, bound: float) -> tuple[Words, Words]:
    """|x| and min(|x|, bound): two comparisons at once, two selections."""
    import jax.numpy as jnp

    limit = round(bound * 2**desk.fraction_bits)

    def signs(v: Any) -> Any:
        negative = v < 0
        return negative, jnp.where(negative, -v, v) >= limit

    negative, large = desk.small(("clipped", limit), signs, [x], results=2)
    below = desk.where(negative, x)
    size = x - below - below
    return size, size - desk.where(large, size - desk.constant(bound))


def _even_quartic(desk: Desk, x: Words, coefficients: tuple[float, ...], bound: float, square: Square) -> Words:
    """x/2 + g(|x|), as `hushlm.private.program.polynomials` has it: c4 ((v + p)^2 + q)^2 + s v + r, v = min(|x|, bound)."""
    size, v = _clipped(desk, x, bound)
    c4, p, q, r, s = quartic_terms(coefficients)
    outer = square(square(v + desk.constant(p)) + desk.constant(q))
    factors = [encode(np.asarray(factor), desk.fraction_bits) for factor in (c4, s - 0.5, 0.5)]
    terms = outer * factors[0] + v * factors[1] + (x + size) * factors[2]
    return desk.truncate(terms + desk.constant(r, 2 * desk.fraction_bits))
