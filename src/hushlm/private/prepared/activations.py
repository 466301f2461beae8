"""FFN activations online: comparisons in the small ring, their bits select in the large one, squares from material."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from hushlm.private.engine.shares import Words, encode
from hushlm.private.prepared.desk import Desk
from hushlm.private.program.polynomials import GELU_BOUND, quartic_terms

__all__ = ["activate"]

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
            return _gelu(desk, x, square)
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


def _gelu(desk: Desk, x: Words, square: Square) -> Words:
    """x/2 + g(|x|), as `hushlm.private.program.polynomials.gelu` has it: c4 ((v + p)^2 + q)^2 + s v + r, v = min(|x|, bound)."""
    import jax.numpy as jnp

    bound = round(GELU_BOUND * 2**desk.fraction_bits)

    def signs(v: Any) -> Any:
        negative = v < 0
        return negative, jnp.where(negative, -v, v) >= bound

    negative, large = desk.small(("gelu", bound), signs, [x], results=2)
    below = desk.where(negative, x)
    size = x - below - below
    v = size - desk.where(large, size - desk.constant(GELU_BOUND))
    c4, p, q, r, s = quartic_terms()
    outer = square(square(v + desk.constant(p)) + desk.constant(q))
    factors = [encode(np.asarray(factor), desk.fraction_bits) for factor in (c4, s - 0.5, 0.5)]
    terms = outer * factors[0] + v * factors[1] + (x + size) * factors[2]
    return desk.truncate(terms + desk.constant(r, 2 * desk.fraction_bits))
