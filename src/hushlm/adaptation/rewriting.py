"""A model's weights in another architecture, with the few numbers that this takes fitted on sample text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hushlm.architectures import Architecture, FeedForward
from hushlm.model.gate_curve import fit_gate_curve
from hushlm.model.language_model import LanguageModel

__all__ = ["Rewritten", "filled_model", "mean_losses_nats", "rewrite", "unfilled_model"]

_FACTORS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
"""Temperatures that are tried: a kernel of few squarings reaches less far below the largest score than exp does."""

_FIRST_FACTORS = {2: 1.6, 3: 1.4}
"""Where the search begins, by the kernel's number of squarings."""

_GATES = 40_000
"""How many gates of a layer are fitted at most."""


@dataclass(frozen=True)
class Rewritten:
    """A model in another architecture.

    Attributes:
        model: the rewritten model, in evaluation mode.
        temperature: the factor on the temperature of all heads; None where none was chosen.
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


def unfilled_model(model: LanguageModel, **changes: Any) -> LanguageModel:
    """A model without numbers, of another architecture or shape."""
    with torch.device("meta"):
        return LanguageModel(changes.get("architecture", model.architecture), changes.get("shape", model.shape))


def filled_model(model: LanguageModel, state: dict[str, Tensor]) -> LanguageModel:
    """An unfilled model with these tensors: the tensors themselves, so that a large model is not held twice."""
    model.load_state_dict(state, assign=True)
    return model.eval()


def rewrite(model: LanguageModel, architecture: Architecture, parts: Sequence[Tensor]) -> Rewritten:
    """Carry a model's weights over.

    A temperature that only the new architecture has begins at 1; where the attention kernel changes it is multiplied by the factor with
    the least loss. The quadratic gates of SwiQ are fitted to SiLU, a curve a layer.

    Args:
        model: whose tensors are shared, not copied.
        architecture: what to make of it.
        parts: windows (N, T) to fit on, one tensor a domain.

    Raises:
        ValueError: one sentence, if the architecture has weights that the model lacks, or no place for some of the model's.
    """
    new = unfilled_model(model, architecture=architecture)
    wanted, state, gate_error = new.state_dict(), dict(model.state_dict()), None
    fresh = [name for name in wanted if name not in state]
    temperatures = [name for name in fresh if name.endswith("attention.temperature")]
    state |= {name: torch.ones(wanted[name].shape) for name in temperatures}
    if architecture.feed_forward is FeedForward.SWIGLU_QUADRATIC and model.architecture.feed_forward is FeedForward.SWIGLU:
        curves, gate_error = _fitted_curves(model, parts)
        state |= {f"blocks.{layer}.feed_forward.curve": curve.float() for layer, curve in curves.items()}
    _check_carried(model, architecture, state, wanted)
    rewritten = filled_model(new, state)
    factor = None
    kernel, before = ((each.power, each.kernel_order) for each in (architecture, model.architecture))
    if temperatures and kernel != before and architecture.kernel_order is not None:
        factor = _best_factor(rewritten, _FIRST_FACTORS.get(architecture.kernel_order, _FACTORS[-1]), parts)
        _set_temperature(rewritten, factor)
    return Rewritten(rewritten, factor, gate_error)


def _check_carried(model: LanguageModel, architecture: Architecture, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raises: ValueError, as `rewrite` does."""
    begin = f"{model.architecture} cannot be rewritten as {architecture}"
    if model.architecture.query_key_norm != architecture.query_key_norm:
        raise ValueError(f"{begin}: only one of them normalises queries and keys, and no weights make up for that.")
    if lacking := [name for name in wanted if name not in state]:
        raise ValueError(
            f"{begin}: it has no {lacking[0]}. Train the new architecture from the start, or choose one with the same weights."
        )
    if left := [name for name in state if name not in wanted]:
        raise ValueError(f"{begin}, which has no place for {left[0]}: choose one with the same blocks, normalisation and temperature.")
    if other := [name for name in wanted if wanted[name].shape != state[name].shape]:
        raise ValueError(f"{begin}, whose {other[0]} has other sizes: choose one with the same blocks, normalisation and temperature.")


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
    return {layer: curve for layer, (curve, _) in fitted.items()}, max((error for _, error in fitted.values()), default=0.0)


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
