"""Recipes: a pretrained model rewritten into a cheaper architecture, with the few numbers that this takes fitted on sample text.

exact   what the model computes
sm3     the attention kernel of three squarings, scores at a temperature, and SwiGLU's gates quadratic
sm2     the same with two squarings

Nothing is trained: a layer's gate is fitted by least squares (`hushlm.model.gate_curve`), and one factor for all temperatures is chosen
from a few by the loss (`hushlm.adaptation.rewriting`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from hushlm.adaptation.rewriting import Rewritten, filled_model, rewrite, unfilled_model
from hushlm.architectures import FeedForward, Temperature
from hushlm.model.language_model import LanguageModel
from hushlm.model.self_attention import KeyValueCache

__all__ = ["RECIPES", "Recipe", "fit_recipe", "with_prefix"]

Recipe = Literal["exact", "sm3", "sm2"]
RECIPES: tuple[Recipe, ...] = ("exact", "sm3", "sm2")

_ORDERS: dict[Recipe, int] = {"sm3": 3, "sm2": 2}


@torch.no_grad()
def with_prefix(model: LanguageModel, tokens: Sequence[int]) -> LanguageModel:
    """The model that reads every text as if these tokens stood before it, their keys and values kept as its own numbers."""
    caches = [KeyValueCache() for _ in model.blocks]
    model(torch.tensor([list(tokens)]), caches=caches)
    shape = replace(model.shape, prefix=len(tokens), context=model.shape.context - len(tokens))
    state = dict(model.state_dict())
    for layer, cache in enumerate(caches):
        assert cache.k_BGSE is not None
        assert cache.v_BGSE is not None
        state |= {
            f"blocks.{layer}.attention.prefix_key": cache.k_BGSE[0].clone(),
            f"blocks.{layer}.attention.prefix_value": cache.v_BGSE[0].clone(),
        }
    return filled_model(unfilled_model(model, shape=shape), state)


def fit_recipe(model: LanguageModel, recipe: Recipe, parts: Sequence[Tensor]) -> Rewritten:
    """Rewrite a model.

    Args:
        model: with exact softmax and no temperature.
        recipe: what to make of it.
        parts: windows (N, T) to fit on, one tensor a domain.
    """
    if recipe == "exact":
        return Rewritten(model)
    architecture = replace(model.architecture, kernel_order=_ORDERS[recipe], temperature=Temperature.PER_HEAD)
    if model.architecture.feed_forward is FeedForward.SWIGLU:
        architecture = replace(architecture, feed_forward=FeedForward.SWIGLU_QUADRATIC)
    return rewrite(model, architecture, parts)
