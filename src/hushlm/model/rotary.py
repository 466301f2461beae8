"""Rotary positions: pairs of query and key entries turned by an angle that grows with the position.

Source: arXiv 2104.09864; laid out as GPT-NeoX does it: entry i of the first R is paired with entry i + R/2, and only they turn.

    (x_i, x_{i+R/2}) -> (x_i cos a - x_{i+R/2} sin a, x_{i+R/2} cos a + x_i sin a),    a = position * base^(-2i/R)

so that the score of a query and a key depends on their distance alone. A public linear map: it has no parameter, and the angles
don't depend on the text.

Legend: B batch, T tokens, H heads, E head width, R rotated entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rotary_tables", "rotate"]


def rotary_tables(first: int, tokens: int, width: int, base: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of `tokens` positions from `first` on.

    Args:
        width: R, even.
        like: gives device and type; angles are taken in float64 whatever it is, for in bfloat16 they would be off by radians.

    Returns:
        cos_TR, sin_TR: entry i and i + R/2 are equal.
    """
    assert width % 2 == 0
    position_T = torch.arange(first, first + tokens, dtype=torch.float64)
    speed_I = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle_TR = (position_T[:, None] * speed_I).repeat(1, 2)
    return angle_TR.cos().to(like), angle_TR.sin().to(like)


def rotate(x_BHTE: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Turn the first R entries, pass the others on."""
    width = cos_TR.shape[-1]
    first, second = x_BHTE[..., : width // 2], x_BHTE[..., width // 2 : width]
    turned = x_BHTE[..., :width] * cos_TR + torch.cat((-second, first), dim=-1) * sin_TR
    return torch.cat((turned, x_BHTE[..., width:]), dim=-1)
