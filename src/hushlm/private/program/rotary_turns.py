"""Rotary positions in the private program: shared queries and keys are turned by angles that both parties know.

A product of shares with public numbers moves nothing. Only its truncation does, so that all products of a step are computed in one call.

Legend: H heads (of keys there may be fewer), T rows of queries, S rows of keys, E width of a head, R turned entries of each head.
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
    """The public factors (2, rows, R) of each entry itself and of the entry that it is paired with, for positions from `first` on.

    Entry i of the first half is paired with entry i + R/2. They become x_i cos a - x_{i+R/2} sin a and x_{i+R/2} cos a + x_i sin a, where
    a = position * base^(-2i/R).
    """
    angle_TI = np.arange(first, first + rows)[:, None] * base ** (-np.arange(0, width, 2) / width)
    sine = np.sin(angle_TI)
    return np.stack([np.tile(np.cos(angle_TI), 2), np.concatenate([-sine, sine], 1)])


def rotate(xp: ModuleType, operation: Rotate) -> Callable[..., tuple[Array, Array]]:
    """The program that turns queries and keys.

    It takes q (H, T, E), k (H, S, E) and the `turns` of the queries (2, T, R) and of the keys (2, S, R), and returns q and k.
    """
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
