"""How many scores of a power kernel lie beyond -2^n, where its weights grow again.

Legend: B batch, T query tokens, S key tokens, H heads, E head width, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hushlm.model.self_attention import Attention

__all__ = ["ScoreWatch", "watch_scores"]


class ScoreWatch:
    """Counts the scores of every head that are seen in forward passes, and those below -2^n among them.

    Attributes:
        counts_2LH: float64; the first table has the scores beyond, the second one all.
    """

    def __init__(self, layers: int, heads: int) -> None:
        self.counts_2LH = torch.zeros(2, layers, heads, dtype=torch.float64)

    @torch.no_grad()
    def see(self, layer: int, order: int, q_BHTE: Tensor, k_BHSE: Tensor, temperature: Tensor | None) -> None:
        """Count one layer's scores."""
        batch, _, queries, width = q_BHTE.shape
        keys = k_BHSE.shape[2]
        s_BHTS = q_BHTE.float() @ k_BHSE.float().mT / math.sqrt(width)
        if temperature is not None:
            s_BHTS = s_BHTS / (temperature if temperature.ndim == 2 else temperature[:, None])[..., None]
        allowed_TS = torch.ones(queries, keys, dtype=torch.bool, device=s_BHTS.device).tril(keys - queries)
        self.counts_2LH[0, layer] += ((s_BHTS < -(2.0**order)) & allowed_TS).sum((0, 2, 3)).double().cpu()
        self.counts_2LH[1, layer] += batch * int(allowed_TS.sum())


@contextmanager
def watch_scores(model: nn.Module) -> Iterator[ScoreWatch]:
    """Watch the forward passes of a model whose attention has power kernels, for as long as the context lasts."""
    found = [module for module in model.modules() if isinstance(module, Attention)]
    watch = ScoreWatch(len(found), found[0].query.out_features // found[0].head_width)

    def watching(layer: int, order: int) -> None:
        found[layer].observer = lambda q, k, temperature: watch.see(layer, order, q, k, temperature)

    try:
        for layer, attention in enumerate(found):
            assert attention.power
            assert attention.order is not None
            watching(layer, attention.order)
        yield watch
    finally:
        for attention in found:
            attention.observer = None
