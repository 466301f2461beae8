"""Feed-forward networks, one leaf module a kind. Each takes the residual stream after attention and returns the stream after itself.

Legend: B batch, T tokens, D width, F FFN width. x is the residual stream, n what the FFN reads: x normalised (x itself without
LayerNorm); in NeoX blocks the stream before attention, normalised.
A new kind is a leaf here, a member of `architectures.FeedForward` and a case in `feed_forward`.
"""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional

from hushlm.architectures import Architecture, Blocks, FeedForward
from hushlm.config import ModelShape
from hushlm.model.gate_curve import DEFAULT_CURVE, quadratic_silu

__all__ = [
    "BilinearFFN",
    "FusedScaledFFN",
    "GeluFFN",
    "IdentityFFN",
    "PolynomialFFN",
    "QuadraticFFN",
    "ReluFFN",
    "ScaledFFN",
    "SquaredReluFFN",
    "SwiGluFFN",
    "SwiGluQuadraticFFN",
    "feed_forward",
    "smooth_relu",
]


class _TwoLayers(nn.Module):
    """`expand` D -> F and `contract` F -> D, with biases or without."""

    def __init__(self, shape: ModelShape, bias: bool) -> None:
        super().__init__()
        self.expand = nn.Linear(shape.width, shape.ffn_width, bias)
        self.contract = nn.Linear(shape.ffn_width, shape.width, bias)


class GeluFFN(_TwoLayers):
    """x + W_out GELU(W_in n + b_in) + b_out, with the GELU of the blocks' family.

    GPT-2's is u/2 (1 + tanh(sqrt(2/pi) (u + 0.044715 u^3))), the others' the exact u Phi(u); they differ by at most 5e-4.
    """

    def __init__(self, shape: ModelShape, bias: bool, exact: bool) -> None:
        super().__init__(shape, bias)
        self.approximate = "none" if exact else "tanh"

    def forward(self, x_BTD: Tensor, n_BTD: Tensor) -> Tensor:
        return x_BTD + self.contract(functional.gelu(self.expand(n_BTD), approximate=self.approximate))


class ReluFFN(_TwoLayers):
    """x + W_out max(0, W_in n + b_in) + b_out."""

    def forward(self, x_BTD: Tensor, n_BTD: Tensor) -> Tensor:
        return x_BTD + self.contract(functional.relu(self.expand(n_BTD)))


class SquaredReluFFN(_TwoLayers):
    """x + W_out max(0, W_in n + b_in)^2 + b_out."""

    def forward(self, x_BTD: Tensor, n_BTD: Tensor) -> Tensor:
        return x_BTD + self.contract(functional.relu(self.expand(n_BTD)).square())


def smooth_relu(u: Tensor) -> Tensor:
    """u where u > 1, 0 where u < -1, (u + 1)^2 / 4 between, elementwise: a GELU of two comparisons and one square under MPC."""
    low = u.clamp(max=1.0)
    return (low.clamp(min=-1.0) + 1.0).square() * 0.25 + (u - low)


class PolynomialFFN(_TwoLayers):
    """x + W_out P(W_in n + b_in) + b_out, P = `smooth_relu`: what the private program computes, to the last place of its fixed point."""

    def forward(self, x_BTD: Tensor, n_BTD: Tensor) -> Tensor:
        return x_BTD + self.contract(smooth_relu(self.expand(n_BTD)))


class QuadraticFFN(_TwoLayers):
    """x + W_out (W_in n + b_in)^2 + b_out: nothing is compared."""

    def forward(self, x_BTD: Tensor, n_BTD: Tensor) -> Tensor:
        return x_BTD + self.contract(self.expand(n_BTD).square())


class BilinearFFN(_TwoLayers):
    """x + W_out ((W_in n + b_in) (W_gate n + b_gate)) + b_out, elementwise: a gated linear unit without activation.

    `gate` D -> F stands beside `expand`: 1.5 times the parameters of the others at the same FFN width.
    """

    def __init__(self, shape: ModelShape, bias: bool) -> None:
        super().__init__(shape, bias)
        self.gate = nn.Linear(shape.width, shape.ffn_width, bias)

    def activated(self, g_BTF: Tensor) -> Tensor:
        """What the other map is multiplied by: W_gate n + b_gate itself."""
        return g_BTF

    def forward(self, x_BTD: Tensor, n_BTD: Tensor) -> Tensor:
        return x_BTD + self.contract(self.expand(n_BTD) * self.activated(self.gate(n_BTD)))


class SwiGluFFN(BilinearFFN):
    """x + W_out ((W_in n + b_in) SiLU(W_gate n + b_gate)) + b_out, SiLU(g) = g / (1 + e^-g)."""

    def activated(self, g_BTF: Tensor) -> Tensor:
        return functional.silu(g_BTF)


class SwiGluQuadraticFFN(BilinearFFN):
    """SwiGLU with `quadratic_silu` in place of SiLU; `curve` (3,) holds its three numbers."""

    def __init__(self, shape: ModelShape, bias: bool) -> None:
        super().__init__(shape, bias)
        self.curve = nn.Parameter(torch.tensor(DEFAULT_CURVE))

    def activated(self, g_BTF: Tensor) -> Tensor:
        return quadratic_silu(g_BTF, self.curve)


class IdentityFFN(_TwoLayers):
    """x + W_out (W_in n + b_in) + b_out: no activation, so linear in n."""

    def forward(self, x_BTD: Tensor, n_BTD: Tensor) -> Tensor:
        return x_BTD + self.contract(self.expand(n_BTD))


class ScaledFFN(_TwoLayers):
    """ScFFN: beta x + (1/alpha) (W_out (W_in n + b_in) + b_out). beta takes the place of the residual connection, it does not join it."""

    def __init__(self, shape: ModelShape, bias: bool) -> None:
        super().__init__(shape, bias)
        self.alpha = nn.Parameter(torch.ones(()))
        self.beta = nn.Parameter(torch.ones(()))

    def forward(self, x_BTD: Tensor, n_BTD: Tensor) -> Tensor:
        return self.beta * x_BTD + self.contract(self.expand(n_BTD)) / self.alpha


class FusedScaledFFN(nn.Module):
    """ScFuFFN: beta x + (1/alpha) (W n + b), one D x D matrix in place of W_out W_in."""

    def __init__(self, shape: ModelShape, bias: bool) -> None:
        super().__init__()
        self.fused = nn.Linear(shape.width, shape.width, bias)
        self.alpha = nn.Parameter(torch.ones(()))
        self.beta = nn.Parameter(torch.ones(()))

    def forward(self, x_BTD: Tensor, n_BTD: Tensor) -> Tensor:
        return self.beta * x_BTD + self.fused(n_BTD) / self.alpha


def feed_forward(architecture: Architecture, shape: ModelShape) -> _TwoLayers | FusedScaledFFN:
    """The leaf of an architecture."""
    bias = architecture.has_biases
    match architecture.feed_forward:
        case FeedForward.GELU:
            return GeluFFN(shape, bias, exact=architecture.blocks is not Blocks.GPT2)
        case FeedForward.RELU:
            return ReluFFN(shape, bias)
        case FeedForward.SQUARED_RELU:
            return SquaredReluFFN(shape, bias)
        case FeedForward.POLYNOMIAL:
            return PolynomialFFN(shape, bias)
        case FeedForward.QUADRATIC:
            return QuadraticFFN(shape, bias)
        case FeedForward.BILINEAR:
            return BilinearFFN(shape, bias)
        case FeedForward.SWIGLU:
            return SwiGluFFN(shape, bias)
        case FeedForward.SWIGLU_QUADRATIC:
            return SwiGluQuadraticFFN(shape, bias)
        case FeedForward.IDENTITY:
            return IdentityFFN(shape, bias)
        case FeedForward.SCALED:
            return ScaledFFN(shape, bias)
        case FeedForward.SCALED_FUSED:
            return FusedScaledFFN(shape, bias)
        case _:
            assert_never(architecture.feed_forward)
