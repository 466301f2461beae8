"""Perplexity and mean head entropies on held-out text.

Legend: B batch, T tokens, H heads, L layers, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from hushlm.data import Tokens, fixed_batches
from hushlm.model import LanguageModel
from hushlm.model.score_watch import ScoreWatch, watch_scores
from hushlm.training.world import World

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What a model does on held-out windows.

    Attributes:
        loss_nats: mean cross-entropy a token.
        perplexity: exp(loss_nats), per token (with the bytes tokenizer: per byte); inf where that overflows.
        head_entropy_nats_LH: mean row entropy of every head over all rows, float64.
        tokens: how many targets were predicted.
        share_beyond_LH: of a model with power kernels, which part of each head's scores lies below -2^n, where weights grow again;
            None for other models.
    """

    loss_nats: float
    perplexity: float
    head_entropy_nats_LH: torch.Tensor
    tokens: int
    share_beyond_LH: torch.Tensor | None = None


def evaluate(model: LanguageModel, tokens: Tokens, batch: int, context: int, batches: int, world: World = World()) -> Evaluation:
    """Evaluate on the same evenly spaced windows every time (`fixed_batches`); the model's mode and weights stay as they were.

    Args:
        model: the model, in any mode.
        tokens: token ids of a split, one dimension.
        batch: B.
        context: T, at most the model's.
        batches: how many batches at most.
        world: ranks that share the batches; each gets the whole result.

    Raises:
        ValueError: if the split is shorter than one window.
    """
    training = model.training
    model.eval()
    device = model.embedding.weight.device
    loss_sum, count = 0.0, 0
    entropy_sum_LH: torch.Tensor | None = None
    shape, power = model.shape, model.architecture.power
    beyond_2LH = torch.zeros(2, shape.layers, shape.heads, dtype=torch.float64)
    try:
        # Not inference mode: shards unsharded there could not be trained on.
        with torch.no_grad():
            for window_BT, counts in _shared(fixed_batches(tokens, batch, context, batches), world):
                watching: AbstractContextManager[ScoreWatch | None] = watch_scores(model) if power else nullcontext()
                with watching as watch:
                    output = model(window_BT[:, :-1].to(device), with_entropy=True)
                if not counts:
                    continue
                if watch is not None:
                    beyond_2LH += watch.counts_2LH
                targets = window_BT[:, 1:].reshape(-1).to(device)
                loss_sum += F.cross_entropy(output.logits_BTV.flatten(0, 1), targets, reduction="sum").item()
                count += targets.numel()
                sum_LH = output.entropy_nats_LBHT.double().sum(dim=(1, 3))
                entropy_sum_LH = sum_LH if entropy_sum_LH is None else entropy_sum_LH + sum_LH
    finally:
        model.train(training)
    if world.size > 1:
        if entropy_sum_LH is None:
            entropy_sum_LH = torch.zeros(shape.layers, shape.heads, dtype=torch.float64, device=device)
        loss_sum, count = world.sum(torch.tensor([loss_sum, count], dtype=torch.float64, device=device)).tolist()
        entropy_sum_LH = world.sum(entropy_sum_LH)
        beyond_2LH = world.sum(beyond_2LH.to(device)).cpu()
    assert entropy_sum_LH is not None  # fixed_batches yields at least one window
    loss = loss_sum / count
    perplexity, share_beyond_LH = math.exp(loss) if loss < 700 else math.inf, beyond_2LH[0] / beyond_2LH[1] if power else None
    return Evaluation(loss, perplexity, (entropy_sum_LH / count).cpu().clone(), int(count), share_beyond_LH)


def _shared(windows: Iterator[torch.Tensor], world: World) -> Iterator[tuple[torch.Tensor, bool]]:
    """This rank's batches, and whether they count: every rank makes as many passes, for the passes of sharded models are joint ones."""
    index = -1
    for index, window_BT in enumerate(windows):
        if index % world.size == world.rank:
            yield window_BT, True
    if world.size > 1 and (index + 1) % world.size not in (0, *range(world.rank + 1, world.size)):
        yield window_BT, False
