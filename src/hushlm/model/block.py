"""One block: attention and a feed-forward network on a residual stream."""

from __future__ import annotations

from torch import Tensor, nn

from hushlm.architectures import Architecture
from hushlm.config import ModelShape
from hushlm.model.feed_forward import feed_forward
from hushlm.model.normalisation import normalise_weights, stream_norm
from hushlm.model.self_attention import Attention, KeyValueCache

__all__ = ["Block"]


class Block(nn.Module):
    """The residual paths; N is LayerNorm or nothing, and a removed FFN ends the block at x_sa.

        x ──┬─> N ─> attention ─>(+)─ x_sa ─┬─> N ─> FFN ──>(+)──> x_out        GELU, ReLU, identity
            └──────────────────────^        └────────────────^

        x ──┬─> attention ─>(+)─ x_sa ─┬─> FFN ─> 1/alpha ─>(+)──> x_out        ScFFN, ScFuFFN
            └────────────────^         └─> beta ─────────────^

    In GPT-NeoX blocks the FFN reads x where it reads x_sa above, by a normalisation of its own; what it adds to stays x_sa:

        x ─┬──> N ─> attention ─>(+)─ x_sa ──────>(+)──> x_out                   all kinds; beta and 1/alpha as above
           ├─────────────────────^                 ^
           └──> N ─> FFN ──────────────────────────┘

    Legend: B batch, T tokens, H heads, D width.
    """

    def __init__(self, architecture: Architecture, shape: ModelShape, layer: int, initial_temperature: float) -> None:
        super().__init__()
        self.parallel = architecture.is_parallel
        self.norm_attention = stream_norm(architecture, shape)
        self.attention = Attention(architecture, shape, initial_temperature)
        has_ffn = architecture.has_ffn(layer, shape.layers)
        self.norm_feed_forward = stream_norm(architecture, shape) if has_ffn else None
        self.feed_forward = feed_forward(architecture, shape) if has_ffn else None

    def normalise_weights(self, architecture: Architecture) -> None:
        """Put WNorm or SNorm on the initialised weights."""
        normalise_weights(architecture, self.attention, self.feed_forward)

    def forward(self, x_BTD: Tensor, cache: KeyValueCache | None = None) -> tuple[Tensor, Tensor]:
        """The stream after the block, (B, T, D), and entropy_nats_BHT."""
        y_BTD, entropy_nats_BHT = self.attention(self.norm_attention(x_BTD), cache)
        x_sa_BTD = x_BTD + y_BTD
        if self.feed_forward is None or self.norm_feed_forward is None:
            return x_sa_BTD, entropy_nats_BHT
        return self.feed_forward(x_sa_BTD, self.norm_feed_forward(x_BTD if self.parallel else x_sa_BTD)), entropy_nats_BHT
