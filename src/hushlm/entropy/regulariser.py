"""The entropy regulariser: heads may choose their entropy, but pay for straying far from a learned threshold.

Source: arXiv 2501.03489, Algorithm 1 and the listing of its Appendix B.

Legend: L layers, B batch, H heads, T query tokens.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["EntropyRegulariser"]


class EntropyRegulariser(nn.Module):
    """Penalty on attention entropy outside a margin around theta log T, theta a learned share per layer and head.

    With tolerance gamma, T the module's context, and psi(delta) = delta^2 if |delta| > gamma log T, else 0:

        "algorithm"   E[l,h] = mean over batch and positions of H[l,b,h,i]
                      penalty = mean_l mean_h psi(E[l,h] - theta[l,h] log T)
        "listing"     penalty = mean_l mean_h sum_b sum_i psi(H[l,b,h,i] - theta[l,h] log T)

    The listing's sum grows with batch and context: its weight of 1e-5 at B = 8, T = 128 is 1e-2 for a mean. Both measure row i,
    whose ceiling is log(i + 1), against log T, as the paper does.

    The penalty jumps at the margin and is flat inside it, so theta and the attention get a gradient only from heads outside.
    Train `threshold_LH` without weight decay.

    Args:
        layers, heads: L and H of the model.
        context: T; log T, the paper's maximum, stays the same for shorter sequences.
        tolerance: gamma >= 0.
        initial_threshold: theta at the start, for every head.
        reduction: "algorithm" or "listing".

    Raises:
        ValueError: for a tolerance below 0, a context below 2, fewer than one layer or head, or an unknown reduction.
    """

    def __init__(
        self,
        layers: int,
        heads: int,
        context: int,
        *,
        tolerance: float,
        initial_threshold: float,
        reduction: Literal["algorithm", "listing"],
    ) -> None:
        super().__init__()
        if layers < 1 or heads < 1 or context < 2 or not tolerance >= 0:
            raise ValueError(
                "The entropy regulariser needs at least 1 layer, 1 head, a context of 2 and a tolerance of 0, "
                f"but got {layers}, {heads}, {context} and {tolerance}."
            )
        if reduction not in ("algorithm", "listing"):
            raise ValueError(f'The reduction must be "algorithm" or "listing", not {reduction!r}.')
        self.maximum_nats = math.log(context)
        self.tolerance_nats = tolerance * self.maximum_nats
        self.reduction = reduction
        self.threshold_LH = nn.Parameter(torch.full((layers, heads), float(initial_threshold)))

    def forward(self, entropy_nats_LBHT: Tensor) -> Tensor:
        """The penalty, a scalar in nats^2, to be multiplied by lambda and added to the loss.

        Args:
            entropy_nats_LBHT: row entropies as `LanguageModel.forward(with_entropy=True)` returns them.

        Raises:
            ValueError: if L or H differ from the thresholds'.
        """
        layers, heads = self.threshold_LH.shape
        if entropy_nats_LBHT.ndim != 4 or (entropy_nats_LBHT.shape[0], entropy_nats_LBHT.shape[2]) != (layers, heads):
            raise ValueError(f"Entropies must have shape ({layers}, B, {heads}, T), but have {tuple(entropy_nats_LBHT.shape)}.")
        if self.reduction == "algorithm":
            return self.penalty_of_means(entropy_nats_LBHT.mean(dim=(1, 3)))
        target_nats_LH = self.threshold_LH * self.maximum_nats
        return self._outside_margin(entropy_nats_LBHT - target_nats_LH[:, None, :, None]).sum(dim=(1, 3)).mean()

    def penalty_of_means(self, entropy_nats_LH: Tensor) -> Tensor:
        """The penalty of the "algorithm" reduction from the heads' means over the whole batch, E above; a scalar in nats^2.

        For a batch that is split over micro-batches or processes, whose parts' penalties would not add up to the batch's.
        """
        return self._outside_margin(entropy_nats_LH - self.threshold_LH * self.maximum_nats).mean()

    def _outside_margin(self, delta_nats: Tensor) -> Tensor:
        return torch.where(delta_nats.abs() > self.tolerance_nats, delta_nats.square(), 0.0)
