"""How far the scores of a power kernel may reach, and a penalty on queries and keys that lead beyond.

A private program divides by row sums up to a limit (`LARGEST_MEAN_WEIGHT` for the mean weight of a row), and weights (1 + s/2^n)^(2^n) grow
fast with the score. By Cauchy and Schwarz |s_ij| <= |q_i| |k_j| / (t sqrt(E)), so no score is larger than `score_limit` where

    |q_i|^2 <= c  and  |k_j|^2 <= c,        c = t sqrt(E) score_limit(n).

Legend: B batch, T query tokens, S key tokens, H heads, E head width.
"""

from __future__ import annotations

import math

from torch import Tensor

from hushlm.architectures import LARGEST_MEAN_WEIGHT

__all__ = ["score_excess", "score_limit"]

MARGIN = 1 / 4
"""A penalty is soft: it begins where a row's mean weight could be this part of the largest one allowed."""


def score_limit(order: int) -> float:
    """The score whose weight is `MARGIN` of the largest mean weight that a private program divides by."""
    return 2**order * ((MARGIN * LARGEST_MEAN_WEIGHT) ** (1 / 2**order) - 1)


def score_excess(order: int, q_BHTE: Tensor, k_BHSE: Tensor, temperature: Tensor | None) -> Tensor:
    """Mean over queries, and over keys, of max(0, |x|^2 / c - 1)^2; 0 where no score can be beyond the limit.

    Args:
        order: n of the kernel.
        temperature: in use, (H, T) or (H,); a temperature per position is taken as its smallest one. None for 1.
    """
    limit = score_limit(order) * math.sqrt(q_BHTE.shape[-1])
    if temperature is None:
        c_H1: Tensor | float = limit
    else:
        c_H1 = limit * (temperature.amin(-1) if temperature.ndim == 2 else temperature)[:, None]
    over_queries, over_keys = ((x.float().square().sum(-1) / c_H1 - 1).relu().square().mean() for x in (q_BHTE, k_BHSE))
    return over_queries + over_keys
