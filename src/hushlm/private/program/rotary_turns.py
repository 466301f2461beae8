"""Rotary positions in the private program: queries and keys, both shared, turned by angles that both parties know.

A product of shares with public numbers moves nothing; only its truncation does, so all products of a step are made in one call.

Legend: H heads, T query rows, S key rows, E head width, R turned entries of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from hushlm.plan import Rotate

__all__ = ["rotate", "turns"]

Array = Any


def turns(first: int, rows: int, width: int, base: float) -> np.ndarray:
    """Public factors (2, rows, R) for positions from `first` on: of an entry itself, and of the one it is paired with.

    Entry i of the first half is paired with entry i + R/2: x_i cos a - x_{i+R/2} sin a, and x_{i+R/2} cos a + x_i sin a, where
    a = position * base^(-2i/R).
    """
    angle_TI = np.arange(first, first + rows)[:, None] * base ** (-np.arange(0, width, 2) / width)
    sine = np.sin(angle_TI)
    return np.stack([np.tile(np.cos(angle_TI), 2), np.concatenate([-sine, sine], 1)])


def rotate(xp: ModuleType, operation: Rotate) -> Callable[..., tuple[Array, Array]]:
    """The program: q (H, T, E), k (H, S, E), `turns` of the queries (2, T, R) and of the keys (2, S, R) -> q, k."""
    width = operation.width

    def program(q_HTE: Array, k_HSE: Array, turns_2TR: Array, turns_2SR: Array) -> tuple[Array, Array]:
        entries, factors = [], []
        for x, turn in ((q_HTE, turns_2TR), (k_HSE, turns_2SR)):
            own = x[..., :width]
            paired = xp.concatenate([own[..., width // 2 :], own[..., : width // 2]], -1)
            entries += [own.reshape(-1), paired.reshape(-1)]
            factors += [xp.broadcast_to(turn[i], own.shape).reshape(-1) for i in range(2)]
        products = xp.concatenate(entries) * xp.concatenate(factors)
        turned, at = [], 0
        for x in (q_HTE, k_HSE):
            shape = (*x.shape[:-1], width)
            size = x.shape[0] * x.shape[1] * width
            both = products[at : at + size] + products[at + size : at + 2 * size]
            rest = x[..., width:]
            turned.append(xp.concatenate([both.reshape(shape), rest], -1) if rest.shape[-1] else both.reshape(shape))
            at += 2 * size
        return turned[0], turned[1]

    return program
