"""What a kernel is, and the causal mask they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["MASKED_SCORE", "Form", "KernelImplementation", "causal_bias"]

MASKED_SCORE = -1e30
"""Score of a key that must not be seen. Finite, so that a probability of 0 times it is 0 and not NaN."""


@dataclass(frozen=True)
class Form:
    """Which function of the scores the weights are, as `hushlm.entropy.attention` writes them down.

    Attributes:
        order: None for exact softmax, or the number n of squarings.
        power: whether the kernel of order n goes without row maximum and without clip.
    """

    order: int | None = None
    power: bool = False

    @property
    def through_maximum(self) -> bool:
        """Whether the gradient flows through the row maximum, too: softmax does not see it, and the power kernel has none."""
        return self.order is not None and not self.power


def _always(q_BHTE: Tensor, order: int | None) -> bool:
    return True


@dataclass(frozen=True)
class KernelImplementation:
    """One implementation.

    Attributes:
        name: as given to `entropy_attention(kernel=...)`.
        run: (q_BHTE, k_BHSE, v_BHSE, scale_HT, form, causal) -> (output_BHTE, entropy_nats_BHT), differentiable in the first four. Scores
            are the products of queries and keys times the scale, of shape (H, T), (H, 1) or (1, 1).
        supports: (q_BHTE, order) -> whether `run` can take them, by device, type and order.
    """

    name: str
    run: Callable[[Tensor, Tensor, Tensor, Tensor, Form, bool], tuple[Tensor, Tensor]]
    supports: Callable[[Tensor, int | None], bool] = _always


def causal_bias(queries: int, keys: int, like: Tensor) -> Tensor:
    """(queries, keys): 0 where the key may be seen, MASKED_SCORE where not; the last query sees every key."""
    return torch.full((queries, keys), MASKED_SCORE, dtype=like.dtype, device=like.device).triu_(keys - queries + 1)
