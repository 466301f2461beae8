"""Causal multi-head self-attention with row entropies.

Legend: B batch, T query tokens, S key tokens, P prefix, H heads, G heads of keys and values, D width, E head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hushlm.architectures import Architecture, Temperature
from hushlm.config import ModelShape
from hushlm.entropy.attention import entropy_attention
from hushlm.model.rotary import rotary_tables, rotate
from hushlm.model.score_bound import score_excess

__all__ = ["MINIMUM_TEMPERATURE", "Attention", "KeyValueCache", "unit_gain"]

MINIMUM_TEMPERATURE = 1e-3
"""Floor of the temperature in use: at or below 0 attention has no meaning, and an optimiser step may take the parameter there."""

SMALLEST_MEAN_SQUARE = 1e-12
"""A head whose map is zero stays at zero."""


def unit_gain(weight: Tensor, bias: Tensor | None, head_width: int) -> Tensor:
    """The gains (H,) of a linear map's heads (H E, D), so that outputs have the mean square 1 over inputs of unit variance.

    Of an input n whose entries are uncorrelated and have the mean square 1, as they leave LayerNorm or RMSNorm, the head's output W n + b
    has the mean square (|W|^2 + |b|^2) / E, with the Frobenius norm of its E rows; the gain is one over the root of that. It depends on
    weights alone, so that export multiplies it out and no root is taken in private.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    square_H = weight.to(wide).unflatten(0, (-1, head_width)).square().sum((1, 2))
    if bias is not None:
        square_H = square_H + bias.to(wide).unflatten(0, (-1, head_width)).square().sum(1)
    return (square_H / head_width).clamp_min(SMALLEST_MEAN_SQUARE).rsqrt()


@dataclass
class KeyValueCache:
    """Keys (turned, where positions are rotary) and values of the tokens seen so far, for one layer, without the prefix.

    Empty at first, and grown by `Attention.forward`.
    """

    k_BGSE: Tensor | None = None
    v_BGSE: Tensor | None = None

    @property
    def positions(self) -> int:
        return 0 if self.k_BGSE is None else self.k_BGSE.shape[2]

    def extend(self, k_BGTE: Tensor, v_BGTE: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values including these."""
        if self.k_BGSE is not None and self.v_BGSE is not None:
            k_BGTE, v_BGTE = torch.cat((self.k_BGSE, k_BGTE), dim=2), torch.cat((self.v_BGSE, v_BGTE), dim=2)
        self.k_BGSE, self.v_BGSE = k_BGTE, v_BGTE
        return k_BGTE, v_BGTE


class Attention(nn.Module):
    """Attention(x) = W_o concat_h softmax(q_h k_h^T / (t_h sqrt(E))) v_h, or with an MPC-native kernel in place of softmax.

    `temperature` is the parameter t itself, as in the paper, of shape (H, context) or (H,), and absent where the architecture has none.
    The forward pass uses max(t, MINIMUM_TEMPERATURE) but hands the gradient to t as if there were no floor, so that a t pushed
    below it can come back. In NeoX and Llama blocks queries and keys carry rotary positions. With fewer heads of keys and values than of
    queries, G < H, query head h reads key head h G / H, rounded down.

    `prefix_key` and `prefix_value` (G, P, E), present where `shape.prefix` is P > 0, are keys (turned already) and values of P positions
    before every text: what a first token leaves behind that is the same for every text. At 0, where they start, they only take weight.

    `score_excess` is what the last training pass of a power kernel had beyond the scores allowed (`hushlm.model.score_bound`), else None.

    With query-key normalisation the rows of W_q and W_k that belong to one head, and their biases, are multiplied by `unit_gain`.
    """

    def __init__(self, architecture: Architecture, shape: ModelShape, initial_temperature: float) -> None:
        super().__init__()
        self.order, self.power, self.normalised = architecture.kernel_order, architecture.power, architecture.query_key_norm
        self.observer: Callable[[Tensor, Tensor, Tensor | None], None] | None = None
        self.score_excess: Tensor | None = None
        self.head_width = shape.head_width
        self.groups = shape.heads // shape.cache_heads
        self.rotary_width = shape.rotary_width if architecture.is_rotary else 0
        self.rotary_base = shape.rotary_base
        biases = architecture.has_biases
        self.query = nn.Linear(shape.width, shape.width, bias=biases or shape.qkv_bias)
        self.key = nn.Linear(shape.width, shape.key_width, bias=biases or shape.qkv_bias)
        self.value = nn.Linear(shape.width, shape.key_width, bias=biases or shape.qkv_bias)
        self.output = nn.Linear(shape.width, shape.width, bias=biases)
        self.prefix = shape.prefix
        if self.prefix:
            rows = (shape.cache_heads, shape.prefix, shape.head_width)
            self.prefix_key, self.prefix_value = nn.Parameter(torch.zeros(rows)), nn.Parameter(torch.zeros(rows))
        self.temperature: nn.Parameter | None = None
        if architecture.temperature is not Temperature.NONE:
            per_position = architecture.temperature is Temperature.PER_HEAD_AND_POSITION
            size = (shape.heads, shape.context) if per_position else (shape.heads,)
            self.temperature = nn.Parameter(torch.full(size, initial_temperature))

    def effective_temperature(self) -> Tensor | None:
        """The temperature in use, (H, context) or (H,), at least MINIMUM_TEMPERATURE; None where there is none (1)."""
        if self.temperature is None:
            return None
        # Exactly the clamped value, as x - x is 0, with the gradient of t itself.
        return self.temperature.detach().clamp_min(MINIMUM_TEMPERATURE) + (self.temperature - self.temperature.detach())

    def forward(self, x_BTD: Tensor, cache: KeyValueCache | None = None) -> tuple[Tensor, Tensor]:
        """Attention over x and, with a cache, everything before it.

        Returns:
            y_BTD without the residual, and entropy_nats_BHT.
        """
        q_BHTE, k_BHSE, v_BHSE = (
            linear(x_BTD).unflatten(-1, (-1, self.head_width)).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )
        if self.normalised:
            q_BHTE, k_BHSE = (
                x * unit_gain(linear.weight, linear.bias, self.head_width)[:, None, None].to(x.dtype)
                for x, linear in ((q_BHTE, self.query), (k_BHSE, self.key))
            )
        past = 0 if cache is None else cache.positions
        if self.rotary_width:
            first = self.prefix + past
            cos_TR, sin_TR = rotary_tables(first, x_BTD.shape[1], self.rotary_width, self.rotary_base, q_BHTE)
            q_BHTE, k_BHSE = rotate(q_BHTE, cos_TR, sin_TR), rotate(k_BHSE, cos_TR, sin_TR)
        if cache is not None:
            k_BHSE, v_BHSE = cache.extend(k_BHSE, v_BHSE)
        if self.prefix:
            k_BHSE, v_BHSE = (
                torch.cat((before.to(x.dtype).expand(len(x), -1, -1, -1), x), dim=2)
                for before, x in ((self.prefix_key, k_BHSE), (self.prefix_value, v_BHSE))
            )
        if self.groups > 1:
            k_BHSE, v_BHSE = k_BHSE.repeat_interleave(self.groups, 1), v_BHSE.repeat_interleave(self.groups, 1)
        temperature = self.effective_temperature()
        if temperature is not None and temperature.ndim == 2:
            temperature = temperature[:, past : past + x_BTD.shape[1]]
        if self.observer is not None:
            self.observer(q_BHTE, k_BHSE, temperature)
        if self.power and self.training and self.order is not None:
            self.score_excess = score_excess(self.order, q_BHTE, k_BHSE, temperature)
        y_BHTE, entropy_nats_BHT = entropy_attention(q_BHTE, k_BHSE, v_BHSE, temperature=temperature, order=self.order, power=self.power)
        return self.output(y_BHTE.transpose(1, 2).flatten(2)), entropy_nats_BHT
