"""Normalisation: LayerNorm or RMSNorm on the stream, or weight and spectral normalisation on linear layers, which inference never sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from torch import nn
from torch.nn.utils import parametrizations

from hushlm.architectures import Architecture, Norm
from hushlm.config import ModelShape

__all__ = ["LayerNorm", "NoNorm", "RMSNorm", "final_norm", "normalise_weights", "stream_norm"]

LAYER_NORM_EPSILON = 1e-5
"""GPT-2's."""

_ATTENTION_LAYERS = {"Q": "query", "K": "key", "V": "value", "O": "output"}
_FFN_LAYERS = ("expand", "gate", "contract", "fused")


class LayerNorm(nn.LayerNorm):
    """(x - mean) / sqrt(variance + 1e-5) * weight + bias over the width."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=LAYER_NORM_EPSILON)


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + epsilon) * weight over the width."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__(width, eps=epsilon)


class NoNorm(nn.Identity):
    """Hands the stream through."""


def stream_norm(architecture: Architecture, shape: ModelShape) -> LayerNorm | RMSNorm | NoNorm:
    """What stands before attention and before the FFN."""
    if architecture.norm is Norm.RMS:
        return RMSNorm(shape.width, shape.norm_epsilon)
    return LayerNorm(shape.width) if architecture.has_layer_norm else NoNorm()


def final_norm(architecture: Architecture, shape: ModelShape) -> LayerNorm | RMSNorm | NoNorm:
    """What stands before the head."""
    return LayerNorm(shape.width) if architecture.final_norm else stream_norm(architecture, shape)


def normalise_weights(architecture: Architecture, attention: nn.Module, feed_forward: nn.Module | None) -> None:
    """Parametrise the weights of the layers that WNorm or SNorm names; nothing for other norms.

    WNorm: W = g V / |V| for each output row, starting at the W found here. SNorm: W = V / sigma(V), sigma the largest singular
    value by one power iteration a training step; so a weight's initial scale has no effect, and training mode updates its buffers
    at every forward pass.
    """
    parametrise: Callable[..., nn.Module]
    match architecture.norm:
        case Norm.NONE | Norm.LAYER | Norm.RMS:
            return
        case Norm.WEIGHT:
            parametrise = parametrizations.weight_norm
        case Norm.SPECTRAL:
            parametrise = parametrizations.spectral_norm
        case _:
            assert_never(architecture.norm)
    for group in architecture.norm_layers.split("+"):
        if group == "FFN":
            layers = [getattr(feed_forward, name) for name in _FFN_LAYERS if hasattr(feed_forward, name)]
        else:
            layers = [getattr(attention, _ATTENTION_LAYERS[letter]) for letter in group]
        for layer in layers:
            parametrise(layer, "weight")
