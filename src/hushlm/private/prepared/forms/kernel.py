"""Row maxima and clip of attention scores in the small ring: 1 + max(s - max s, clip) / 2^n, ready to be squared n times."""

from __future__ import annotations

from typing import Any

import numpy as np

from hushlm.cost.tournament import Tournament
from hushlm.plan import Kernel, PowerKernel, row_lengths
from hushlm.private.engine.shares import Words
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.forms.tournament import kept_above
from hushlm.private.program.attention_kernel import clip_bound

__all__ = ["SMALL_MASKED_SCORE", "power_of_scores", "score_places"]

SMALL_MASKED_SCORE = -(2.0**12)
"""Stands for minus infinity before the row maximum, in the small ring: differences from scores below 2^12 in size still fit."""


def score_places(operation: Kernel | PowerKernel) -> np.ndarray:
    """Of the scores of one head, flattened (T S,), which go through the kernel, in the order of rows."""
    return np.concatenate([row * operation.keys + np.arange(length) for row, length in enumerate(row_lengths(operation))])


def power_of_scores(desk: Desk, operation: Kernel, s_HN: Words, allowed_N: np.ndarray, form: Tournament) -> Words:
    """Scores (H, N) of rows behind one another -> 1 + z / 2^n with z = max(s - row maximum, clip), not below 0.

    Args:
        allowed_N: public; other scores are taken as `SMALL_MASKED_SCORE`.
        form: of finding the maxima.
    """
    import jax.numpy as jnp

    lengths, unit, order = row_lengths(operation), 2**desk.fraction_bits, operation.squarings
    if not allowed_N.all():
        s_HN = np.where(allowed_N, s_HN, desk.constant(SMALL_MASKED_SCORE))
    lowest = round(clip_bound(operation) * unit)

    def program(s: Any) -> Any:
        # 2^n + z, as whole numbers.
        return kept_above(jnp, s, lengths, form, lowest) + (unit << order)

    (small,) = desk.small(("power", operation, form), program, [s_HN])
    return desk.widen(small, order)
