"""Recipes: a pretrained model rewritten into a cheaper architecture, with the few numbers that this takes fitted on sample text.

exact   what the model computes
sm3     the attention kernel of three squarings, scores at a temperature, and SwiGLU's gates quadratic
sm2     the same with two squarings

Nothing is trained: a layer's gate is fitted by least squares (`hushlm.model.gate_curve`), and one factor for all temperatures is chosen
from a few by the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from hushlm.architectures import FeedForward, Temperature
from hushlm.model.gate_curve import fit_gate_curve
from hushlm.model.language_model import LanguageModel
from hushlm.model.self_attention import KeyValueCache

__all__ = ["RECIPES", "Recipe", "fit_recipe", "mean_losses_nats", "with_prefix"]

Recipe = Literal["exact", "sm3", "sm2"]
RECIPES: tuple[Recipe, ...] = ("exact", "sm3", "sm2")

_ORDERS: dict[Recipe, int] = {"sm3": 3, "sm2": 2}
_FACTORS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
"""Temperatures that are tried: a kernel of few squarings reaches less far below the largest score than exp does."""

_FIRST_FACTOR: dict[Recipe, float] = {"sm3": 1.4, "sm2": 1.6}
_GATES = 40_000
"""How many gates of a layer are fitted at most."""


@dataclass(frozen=True)
class Fitted:
    """A model after its recipe.

    Attributes:
        model: the rewritten model.
        temperature: the factor on the temperature of all heads; None where there is none.
        gate_error: the largest of the layers' root mean square errors of the gate; None where no gate is fitted.
    """

    model: LanguageModel
    temperature: float | None = None
    gate_error: float | None = None


@torch.no_grad()
def mean_losses_nats(model: LanguageModel, parts: Sequence[Tensor], batch: int = 4) -> list[float]:
    """The mean cross-entropy a token of each set of windows (N, T), in nats; the first token of a window is not predicted."""
    means = []
    for windows_NT in parts:
        total = 0.0
        for part_BT in windows_NT.split(batch):
            logits_BTV = model(part_BT).logits_BTV[:, :-1]
            total += float(functional.cross_entropy(logits_BTV.flatten(0, 1).float(), part_BT[:, 1:].flatten(), reduction="sum"))
        means.append(total / (len(windows_NT) * (windows_NT.shape[1] - 1)))
    return means


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
    return _filled(replace_architecture(model, shape=shape), state)


def fit_recipe(model: LanguageModel, recipe: Recipe, parts: Sequence[Tensor]) -> Fitted:
    """Rewrite a model.

    Args:
        model: with exact softmax and no temperature.
        recipe: what to make of it.
        parts: windows (N, T) to fit on, one tensor a domain.
    """
    if recipe == "exact":
        return Fitted(model)
    architecture = replace(model.architecture, kernel_order=_ORDERS[recipe], temperature=Temperature.PER_HEAD)
    state: dict[str, Tensor] = dict(model.state_dict())
    gate_error = None
    if model.architecture.feed_forward is FeedForward.SWIGLU:
        architecture = replace(architecture, feed_forward=FeedForward.SWIGLU_QUADRATIC)
        curves, gate_error = _fitted_curves(model, parts)
        state |= {f"blocks.{layer}.feed_forward.curve": curve.float() for layer, curve in curves.items()}
    rewritten = replace_architecture(model, architecture=architecture)
    state |= {f"blocks.{layer}.attention.temperature": torch.ones(model.shape.heads) for layer in range(model.shape.layers)}
    rewritten = _filled(rewritten, state)
    factor = _best_factor(rewritten, _FIRST_FACTOR[recipe], parts)
    _set_temperature(rewritten, factor)
    return Fitted(rewritten, factor, gate_error)


def replace_architecture(model: LanguageModel, **changes: Any) -> LanguageModel:
    """An unfilled model of another architecture or shape."""
    with torch.device("meta"):
        return LanguageModel(changes.get("architecture", model.architecture), changes.get("shape", model.shape))


def _filled(model: LanguageModel, state: dict[str, Tensor]) -> LanguageModel:
    # The tensors themselves: a large model is not held twice.
    model.load_state_dict(state, assign=True)
    return model.eval()


@torch.no_grad()
def _fitted_curves(model: LanguageModel, parts: Sequence[Tensor]) -> tuple[dict[int, Tensor], float]:
    """Every layer's curve, and the largest error."""
    gates: dict[int, list[Tensor]] = {}
    handles = []
    total = sum(part.numel() for part in parts) * model.shape.ffn_width
    stride = max(1, total // _GATES) | 1  # odd, so that it does not fall into step with the width
    for layer, block in enumerate(model.blocks):
        if getattr(block, "feed_forward", None) is None:
            continue
        seen = gates.setdefault(layer, [])
        handles.append(
            block.get_submodule("feed_forward.gate").register_forward_hook(
                lambda _, inputs, g, seen=seen: seen.append(g.flatten()[::stride].clone())
            )
        )
    try:
        for windows_NT in parts:
            for part_BT in windows_NT.split(4):
                model(part_BT)
    finally:
        for handle in handles:
            handle.remove()
    fitted = {layer: fit_gate_curve(torch.cat(seen)) for layer, seen in gates.items()}
    return {layer: curve for layer, (curve, _) in fitted.items()}, max(error for _, error in fitted.values())


def _best_factor(model: LanguageModel, first: float, parts: Sequence[Tensor]) -> float:
    """The factor with the least loss: from the first one on, to whichever side it falls, until it rises."""
    losses: dict[float, float] = {}

    def loss(factor: float) -> float:
        if factor not in losses:
            _set_temperature(model, factor)
            losses[factor] = sum(mean_losses_nats(model, parts))
        return losses[factor]

    at = _FACTORS.index(first)
    for step in (1, -1):
        while 0 <= at + step < len(_FACTORS) and loss(_FACTORS[at + step]) < loss(_FACTORS[at]):
            at += step
    return _FACTORS[at]


@torch.no_grad()
def _set_temperature(model: LanguageModel, factor: float) -> None:
    for block in model.blocks:
        temperature = block.get_parameter("attention.temperature")
        temperature.fill_(factor)
