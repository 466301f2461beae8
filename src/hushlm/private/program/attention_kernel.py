"""The attention kernel as an array program: the row maxima, clip, exponential and row sums of the scores that may be attended to.

Under a causal mask only the lower triangle of the scores goes through the kernel, behind the prefix if there is one. Its rows stand behind
one another in one flat vector, without padding, because comparisons are paid for by the element and squares by the ciphertext. Where each
score stands is public, so that rearranging them costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from hushlm.architectures import POWER_FLOOR
from hushlm.plan import Kernel, PowerKernel, row_lengths
from hushlm.plan.attention_operations import POWER_SUM
from hushlm.private.program.polynomials import square

__all__ = ["MASKED_SCORE", "attention_kernel", "clip_bound", "exponential_reference", "power_kernel", "row_maxima", "weight_roots"]

Array = Any

MASKED_SCORE = -131072.0
"""What stands for minus infinity before the row maximum. It is far below any score, and far inside the range of the ring."""

EXACT_SOFTMAX_CLIP = -14.0
"""The argument is clipped here, where exp is below 1e-6, because (1 + z/2^n)^(2^n) grows again further down."""


def clip_bound(kernel: Kernel) -> float:
    """The lowest z = score - maximum that the exponential sees: -2^n, where the kernel of SMn is zero, or `EXACT_SOFTMAX_CLIP`."""
    return -float(2**kernel.squarings) if kernel.bounded else EXACT_SOFTMAX_CLIP


def exponential_reference(z: np.ndarray, kernel: Kernel) -> np.ndarray:
    """What the exponential stands for, in float64: the kernel of SMn, or exp."""
    return np.maximum(1 + z / 2**kernel.squarings, 0) ** (2**kernel.squarings) if kernel.bounded else np.exp(z)


def _exponential(xp: ModuleType, z_N: Array, kernel: Kernel) -> Array:
    """(1 + z/2^n)^(2^n) of a flat vector; `kernel.written_out` of its elements, the last ones, are squared as x * x."""
    if xp is np:
        return exponential_reference(z_N, kernel)
    whole = z_N.shape[0] - kernel.written_out
    parts = []
    if whole and kernel.exponentials == 1:
        # The engine's own exponential has this form, and n is one of the engine's settings.
        parts.append(xp.exp(z_N[:whole]))
    elif whole:
        parts.append(_squarings(xp, z_N[:whole], kernel, built_in=True))
    if kernel.written_out:
        parts.append(_squarings(xp, z_N[whole:], kernel, built_in=False))
    return xp.concatenate(parts)


def _squarings(xp: ModuleType, z_N: Array, kernel: Kernel, built_in: bool) -> Array:
    power = 1 + z_N * (1 / 2**kernel.squarings)
    for _ in range(kernel.squarings):
        power = square(xp, power, built_in)
    return power


def _pick(x_HN: Array, places: np.ndarray) -> Array:
    """The columns of x in the order of `places`."""
    return x_HN if np.array_equal(places, np.arange(x_HN.shape[1])) else x_HN[:, places]


def row_maxima(xp: ModuleType, x_HN: Array, lengths: list[int]) -> Array:
    """The maxima (H, R) of R rows of the given lengths, which stand behind one another in (H, N).

    They are found by a tournament in which all rows play each round together, so that it has as many rounds as the longest row needs.
    """
    ends = np.cumsum(lengths)
    rows = [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    while any(len(row) > 1 for row in rows):
        pairs = [len(row) // 2 for row in rows]
        first = np.concatenate([row[:pair] for row, pair in zip(rows, pairs, strict=True)])
        second = np.concatenate([row[len(row) - pair :] for row, pair in zip(rows, pairs, strict=True)])
        idle = [row[pair : len(row) - pair] for row, pair in zip(rows, pairs, strict=True)]
        winners = xp.maximum(x_HN[:, first], x_HN[:, second])
        x_HN = xp.concatenate([winners, x_HN[:, np.concatenate(idle)]], 1)
        won, left, rows = 0, len(first), []
        for pair, resting in zip(pairs, idle, strict=True):
            rows.append(np.append(np.arange(won, won + pair), np.arange(left, left + len(resting))))
            won, left = won + pair, left + len(resting)
    return _pick(x_HN, np.concatenate(rows))


def attention_kernel(xp: ModuleType, operation: Kernel) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The program of the kernel.

    It takes scores (H, T, S) and a public mask (T, S) of the allowed pairs, and returns unnormalised weights (H, T, S) and the sums of
    their rows (H, T).
    """
    heads, lengths = operation.heads, row_lengths(operation)
    chosen, row_of = _places(operation)

    def kernel(s_HTS: Array, allowed_TS: Array) -> tuple[Array, Array]:
        mask_N = _pick(allowed_TS.reshape(1, -1), chosen)[0] > 0.5
        s_HN = xp.where(mask_N, _pick(s_HTS.reshape(heads, -1), chosen), MASKED_SCORE)
        maxima_HT = row_maxima(xp, s_HN, lengths)
        z_HN = xp.maximum(s_HN - maxima_HT[:, row_of], clip_bound(operation))
        e_HN = xp.where(mask_N, _exponential(xp, z_HN.reshape(-1), operation).reshape(heads, -1), 0.0)
        return _weights(xp, operation, e_HN)

    return kernel


def _places(operation: Kernel | PowerKernel) -> tuple[np.ndarray, np.ndarray]:
    """Of the scores of one head, flattened (T S,), which go through the kernel, in the order of rows; and the row of each."""
    lengths = row_lengths(operation)
    chosen = np.concatenate([row * operation.keys + np.arange(length) for row, length in enumerate(lengths)])
    return chosen, np.repeat(np.arange(operation.rows), lengths)


def _weights(xp: ModuleType, operation: Kernel | PowerKernel, e_HN: Array) -> tuple[Array, Array]:
    """Weights (H, T, S), zero where no score went through the kernel, and the sums of their rows (H, T)."""
    chosen, _ = _places(operation)
    back = np.full(operation.rows * operation.keys, len(chosen))
    back[chosen] = np.arange(len(chosen))
    weights_HTS = _pick(xp.pad(e_HN, ((0, 0), (0, 1))), back).reshape(operation.heads, operation.rows, operation.keys)
    return weights_HTS, xp.sum(weights_HTS, -1)


def weight_roots(allowed_TS: np.ndarray, squarings: int) -> np.ndarray:
    """The public factors (T, 1) of each row's scores in a power kernel: the 2^n-th root of `POWER_SUM` over the number of allowed keys.

    They are 0 for a row of a single key, whose score does not matter.
    """
    count_T1 = allowed_TS.sum(-1, keepdims=True)
    return np.where(count_T1 > 1, (POWER_SUM / count_T1) ** (0.5**squarings), 0.0)


def power_kernel(xp: ModuleType, operation: PowerKernel) -> Callable[[Array, Array, Array], tuple[Array, Array]]:
    """The program of the power kernel.

    It takes scores (H, T, S), a public mask (T, S) of the allowed pairs and the public roots c (T, 1) of `weight_roots`, and returns the
    weights (c (1 + s/2^n))^(2^n) + c^(2^n) floor, or 1 where c = 0, zero for all other pairs (H, T, S), and the sums of their rows (H, T).
    """
    heads, order = operation.heads, operation.squarings
    chosen, row_of = _places(operation)
    few, whole = operation.written_out, operation.elements - operation.written_out

    def powers(s_HN: Array, roots_N: Array) -> Array:
        if xp is np:
            return (roots_N * (1 + s_HN / 2**order)) ** (2**order)
        flat_s, flat_roots = s_HN.reshape(-1), xp.broadcast_to(roots_N, s_HN.shape).reshape(-1)
        parts = []
        if whole and operation.exponentials == 1:
            # The engine's exponential is (1 + z/2^n)^(2^n), here at z = c s + 2^n (c - 1).
            root = flat_roots[:whole]
            parts.append(xp.exp(flat_s[:whole] * root + (root - 1.0) * 2.0**order))
        for part, built_in in ((slice(0, 0 if operation.exponentials == 1 else whole), True), (slice(whole, whole + few), False)):
            if part.stop > part.start:
                power = flat_s[part] * (flat_roots[part] * 0.5**order) + flat_roots[part]
                for _ in range(order):
                    power = square(xp, power, built_in)
                parts.append(power)
        return xp.concatenate(parts).reshape(heads, -1)

    def kernel(s_HTS: Array, allowed_TS: Array, roots_T1: Array) -> tuple[Array, Array]:
        mask_N = _pick(allowed_TS.reshape(1, -1), chosen)[0] > 0.5
        roots_N = roots_T1[:, 0][row_of]
        factor_N = roots_N
        for _ in range(order):
            factor_N = factor_N * factor_N
        added_N = xp.where(roots_N > 0.0, factor_N * POWER_FLOOR, 1.0)
        weights_HN = powers(_pick(s_HTS.reshape(heads, -1), chosen), roots_N) + added_N
        return _weights(xp, operation, xp.where(mask_N, weights_HN, 0.0))

    return kernel
