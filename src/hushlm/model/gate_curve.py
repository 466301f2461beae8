"""A gate that is quadratic near 0, in place of SiLU: under secure computation it takes a sign, a clip and one square.

    F(h) = h/2 + q v^2 + c v + d + (|h| - v)/2,    v = min(|h|, B)
    SiLU(g) ~ F(s g) / s

B and q are the same for every layer and public. The curve (s, c, d) is a layer's own: s is folded into weights, and c and d are added to
shares, so that the server keeps them to itself at no price.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hushlm.architectures import GATE_BOUND, GATE_QUADRATIC

__all__ = ["DEFAULT_CURVE", "fit_gate_curve", "quadratic_silu"]

DEFAULT_CURVE = (2.0, 0.1497, -0.0678)
"""The least-squares fit to SiLU for gates that are standard normal."""

_SCALES = (0.5, 0.57, 0.65, 0.73, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)


def _even_part(h: Tensor) -> tuple[Tensor, Tensor]:
    """v, and F without c v + d."""
    size = h.abs()
    v = size.clamp_max(GATE_BOUND)
    return v, GATE_QUADRATIC * v * v + (h + size - v) * 0.5


def quadratic_silu(g: Tensor, curve: Tensor) -> Tensor:
    """F(s g) / s, elementwise; `curve` (3,) holds s, c, d."""
    scale, linear, constant = curve
    v, rest = _even_part(g * scale)
    return (rest + linear * v + constant) / scale


@torch.no_grad()
def fit_gate_curve(gates_N: Tensor) -> tuple[Tensor, float]:
    """The curve that is nearest to SiLU on a sample of a layer's gates, by least squares for each of a few s.

    Args:
        gates_N: at least two different numbers.

    Returns:
        The curve (3,) and the root mean square of what is left of the error.
    """
    g = gates_N.double().flatten()
    target = torch.nn.functional.silu(g)
    best, least = torch.tensor(DEFAULT_CURVE, dtype=torch.float64), float("inf")
    for scale in _SCALES:
        v, rest = _even_part(g * scale)
        columns = torch.stack([v, torch.ones_like(v)], 1)
        wanted = scale * target - rest
        solution = torch.linalg.lstsq(columns, wanted[:, None]).solution[:, 0]
        error = float(((columns @ solution - wanted) / scale).square().mean().sqrt())
        if error < least:
            best, least = torch.cat([torch.tensor([scale], dtype=torch.float64), solution]), error
    return best, least
