"""The vocabulary of architectures: which nonlinearities a decoder-only language model keeps, and how that is written.

A name lists exactly the nonlinearities present, in the notation of arXiv 2501.03489, and round-trips: `parse(str(a)) == a`.

    EReg( NeoX( SM 2 (t) + WNorm(QK) + LNf + ScFuFFN(6 deepest FFNs removed) ) )
    |     |     |  |  |    |           |     |       `- layers whose feed-forward network (FFN) is left out, counted from the deepest
    |     |     |  |  |    |           |     `- FFN: G (GELU), R (ReLU), R2 (its square), P (polynomial), Q (square), B (bilinear), ScFFN,
    |     |     |  |  |    |           |        ScFuFFN, or nothing (identity activation)
    |     |     |  |  |    |           `- one LayerNorm, before the head, where the blocks have none (LN brings it with it)
    |     |     |  |  |    `- normalisation: LN, WNorm(X), SNorm(X), or nothing
    |     |     |  |  `- learnable temperature: (t) per head and query position, (th) per head, or nothing
    |     |     |  `- attention kernel: nothing (exact softmax) or n, for p ~ max(0, 1 + (s - max s)/2^n)^(2^n)
    |     |     `- softmax
    |     `- GPT-NeoX blocks: rotary positions, attention and FFN side by side; GPT-2's without it
    `- trained with the entropy regulariser (a matter of training: same graph, cost and export)

An architecture is a value; nothing in the system looks into its name.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from enum import Enum

__all__ = [
    "REGISTRY",
    "Architecture",
    "Blocks",
    "FeedForward",
    "Norm",
    "Temperature",
    "parse",
    "slug",
]

STATIC_NORM_LAYERS = ("QK", "FFN", "QK+FFN", "QKV+FFN", "QKVO+FFN")
KERNEL_ORDERS = (1, 2, 3)


class Temperature(Enum):
    """Learnable softmax temperature t: the scores are q.k / (t sqrt(E))."""

    NONE = ""
    PER_HEAD_AND_POSITION = "(t)"
    """t of shape (H, T), the paper's. An elementwise product with a server-private tensor at inference."""
    PER_HEAD = "(th)"
    """t of shape (H,). Folded into the query projection at export: free."""


class Norm(Enum):
    """Normalisation of the blocks. WNorm and SNorm act on weights and cost nothing at inference."""

    NONE = ""
    LAYER = "LN"
    WEIGHT = "WNorm"
    SPECTRAL = "SNorm"


class Blocks(Enum):
    """How a block is built; any choice of nonlinearities goes with either.

    GPT2: learned positions, the FFN reads the stream after attention. NEOX: rotary positions (shape.rotary_share of every head), the FFN
    reads what attention reads, and GELU is the exact one, x Phi(x), where GPT-2's is its tanh form.
    """

    GPT2 = ""
    NEOX = "NeoX"


class FeedForward(Enum):
    """Feed-forward network of a block, x_sa being the residual stream after attention.

    GELU, RELU, SQUARED_RELU, POLYNOMIAL, QUADRATIC, IDENTITY: x_sa + W_out act(W_in N(x_sa)), with act(u) = max(0, u)^2 for SQUARED_RELU,
    u^2 for QUADRATIC, and for POLYNOMIAL a ReLU with a quadratic joint, (u + 1)^2 / 4 for |u| <= 1: what the private program computes is
    what was trained. BILINEAR: x_sa + W_out ((W_in N(x_sa)) (W_gate N(x_sa))), elementwise; W_gate is F x D like W_in, so at the same FFN
    width F it has 1.5 times the parameters. SCALED (ScFFN): beta x_sa + (1/alpha) W_out W_in x_sa; SCALED_FUSED (ScFuFFN): the same with
    one D x D matrix in place of W_out W_in. In NeoX blocks what is multiplied by W_in, W_gate or the one matrix is the stream before
    attention.
    """

    GELU = "G"
    RELU = "R"
    SQUARED_RELU = "R2"
    POLYNOMIAL = "P"
    QUADRATIC = "Q"
    BILINEAR = "B"
    IDENTITY = ""
    SCALED = "ScFFN"
    SCALED_FUSED = "ScFuFFN"

    @property
    def is_linear(self) -> bool:
        """No nonlinearity between the FFN's input and its output."""
        return self is FeedForward.IDENTITY or self.is_scaled

    @property
    def is_scaled(self) -> bool:
        """Has the learnable scalars alpha and beta per layer."""
        return self in (FeedForward.SCALED, FeedForward.SCALED_FUSED)


@dataclass(frozen=True)
class Architecture:
    """Which nonlinearities a model keeps. Immutable, hashable, printable: `str(a)` is its name.

    Attributes:
        kernel_order: n of the attention kernel (1 + z/2^n)^(2^n); None for the exact softmax.
        temperature: learnable softmax temperature.
        norm: normalisation of the blocks.
        norm_layers: for WNorm and SNorm, the linear layers they act on: one of `STATIC_NORM_LAYERS`; else "".
        feed_forward: the FFN of each block.
        removed_ffns: how many of the deepest blocks have no FFN at all.
        blocks: GPT-2's or GPT-NeoX's.
        final_norm: a LayerNorm before the head although the blocks have none (the authors' own code leaves it in); LN has it anyway.
        entropy_regularised: trained with the entropy regulariser; `replace(a, entropy_regularised=False)` builds the same graph.

    Raises:
        ValueError: for a combination that has no meaning.
    """

    kernel_order: int | None = None
    temperature: Temperature = Temperature.NONE
    norm: Norm = Norm.NONE
    norm_layers: str = ""
    feed_forward: FeedForward = FeedForward.IDENTITY
    removed_ffns: int = 0
    entropy_regularised: bool = False
    blocks: Blocks = Blocks.GPT2
    final_norm: bool = False

    def __post_init__(self) -> None:
        if self.kernel_order is not None and self.kernel_order not in KERNEL_ORDERS:
            raise ValueError(f"SM{self.kernel_order}: the kernel's order must be one of {KERNEL_ORDERS}, or absent for exact softmax.")
        static = self.norm in (Norm.WEIGHT, Norm.SPECTRAL)
        if static and self.norm_layers not in STATIC_NORM_LAYERS:
            raise ValueError(f"{self.norm.value}({self.norm_layers}): the linear layers must be one of {', '.join(STATIC_NORM_LAYERS)}.")
        if not static and self.norm_layers:
            raise ValueError(f"Linear layers ({self.norm_layers}) can only be named for WNorm and SNorm.")
        if self.removed_ffns < 0:
            raise ValueError("The number of removed FFNs must not be negative.")
        if self.norm is Norm.LAYER and self.feed_forward.is_scaled:
            raise ValueError(f"{self.feed_forward.value} stands in for LayerNorm: leave out LN, or use G, R or the identity FFN with it.")
        if self.norm is Norm.LAYER and self.final_norm:
            raise ValueError("LN has a LayerNorm before the head already: leave out LNf.")

    def __str__(self) -> str:
        parts = ["SM" + (str(self.kernel_order) if self.kernel_order else "") + self.temperature.value]
        if self.norm is not Norm.NONE:
            parts.append(self.norm.value + (f"({self.norm_layers})" if self.norm_layers else ""))
        if self.final_norm:
            parts.append("LNf")
        if self.feed_forward.value:
            parts.append(self.feed_forward.value)
        name = "+".join(parts)
        if self.removed_ffns:
            name += f"({self.removed_ffns} deepest FFNs removed)"
        if self.blocks is not Blocks.GPT2:
            name = f"{self.blocks.value}({name})"
        return f"EReg({name})" if self.entropy_regularised else name

    @property
    def has_layer_norm(self) -> bool:
        """LayerNorm in the blocks."""
        return self.norm is Norm.LAYER

    @property
    def has_final_norm(self) -> bool:
        """LayerNorm before the head."""
        return self.has_layer_norm or self.final_norm

    @property
    def is_parallel(self) -> bool:
        """Attention and FFN read the same stream, and positions are rotary: GPT-NeoX blocks."""
        return self.blocks is Blocks.NEOX

    @property
    def squarings(self) -> int:
        """Secure squarings of the attention kernel: its order n, or 6 for the exact softmax's exponential (1 + z/64)^64."""
        return self.kernel_order if self.kernel_order is not None else EXACT_SOFTMAX_SQUARINGS

    def has_ffn(self, layer: int, layers: int) -> bool:
        """Whether block `layer` (0-based, of `layers`) has an FFN.

        Raises:
            ValueError: if more FFNs are removed than there are layers.
        """
        if self.removed_ffns > layers:
            raise ValueError(f"{self} removes {self.removed_ffns} FFNs, but the model has only {layers} layers.")
        return layer < layers - self.removed_ffns

    def without_regulariser(self) -> Architecture:
        """The same graph as trained without the entropy regulariser."""
        return replace(self, entropy_regularised=False)


EXACT_SOFTMAX_SQUARINGS = 6

_NAME = re.compile(
    r"SM(?P<order>\d+)?(?P<temperature>\(t\)|\(th\))?"
    r"(?:\+(?P<norm>LN|WNorm|SNorm)(?:\((?P<layers>[QKVOFN+]+)\))?)?(?P<final>\+LNf)?"
    r"(?:\+(?P<ffn>ScFuFFN|ScFFN|G|R2|R|P|Q|B))?"
    r"(?:\((?P<removed>\d+) deepest FFNs removed\))?"
)


def parse(name: str) -> Architecture:
    """The architecture of a name; the inverse of `str`.

    Args:
        name: for example "SM+LN+G" or "EReg(SM(t)+ScFuFFN)"; spaces around it are ignored.

    Raises:
        ValueError: if the name is unknown, with the nearest known names.
    """
    text = name.strip()
    regularised = re.fullmatch(r"EReg\((.*)\)", text)
    inner = regularised[1] if regularised else text
    neox = re.fullmatch(r"NeoX\((.*)\)", inner)
    match = _NAME.fullmatch(neox[1] if neox else inner)
    if match is None:
        near = difflib.get_close_matches(text, [str(a) for a in REGISTRY], n=3, cutoff=0.3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"Unknown architecture {name!r}.{hint} `hushlm architectures` lists the names.")
    return Architecture(
        kernel_order=int(match["order"]) if match["order"] else None,
        temperature=Temperature(match["temperature"] or ""),
        norm=Norm(match["norm"] or ""),
        norm_layers=match["layers"] or "",
        feed_forward=FeedForward(match["ffn"] or ""),
        removed_ffns=int(match["removed"] or 0),
        entropy_regularised=regularised is not None,
        blocks=Blocks.NEOX if neox else Blocks.GPT2,
        final_norm=match["final"] is not None,
    )


def slug(architecture: str) -> str:
    """A name as a folder: "EReg(SM(t)+ScFuFFN)" -> "EReg-SM-t-ScFuFFN"."""
    return "-".join("".join(c if c.isalnum() else " " for c in architecture).split())


_PAPER_NAMES = (
    "SM+LN+G",
    "SM+LN+R",
    "SM+LN",
    "SM+G",
    "SM+R",
    "SM",
    *(f"SM+{norm}({layers})" for norm in ("WNorm", "SNorm") for layers in STATIC_NORM_LAYERS),
    "SM+ScFFN",
    "SM+ScFuFFN",
    "SM(t)+ScFuFFN",
    "EReg(SM(t)+ScFuFFN)",
    "SM+ScFuFFN(6 deepest FFNs removed)",
    "EReg(SM(t)+ScFuFFN(6 deepest FFNs removed))",
)
_OWN_NAMES = (
    "SM(th)+ScFuFFN",
    "EReg(SM(th)+ScFuFFN)",
    *(f"SM{n}+{ffn}" for n in KERNEL_ORDERS for ffn in ("ScFuFFN", "R")),
    "SM2+LN+R",
    "SM2+LN+G",
    "SM+LN+P",
    "SM2+LN+P",
    "SM2+R2",
    "SM2+Q",
    "SM2+B",
    "SM(th)+LN+Q",
    "SM2(th)+LN+Q",
    "SM2(th)+LN+R",
    "SM2(t)+ScFuFFN",
    "EReg(SM2+R)",
    "EReg(SM2+ScFuFFN)",
    "EReg(SM2(t)+ScFuFFN)",
)

_NEOX_NAMES = (
    "NeoX(SM+LN+G)",
    "NeoX(SM+LN+R)",
    "NeoX(SM+ScFuFFN)",
    "EReg(NeoX(SM(t)+ScFuFFN))",
    "NeoX(SM2+R)",
)

REGISTRY: tuple[Architecture, ...] = tuple(parse(name) for name in (*_PAPER_NAMES, *_OWN_NAMES, *_NEOX_NAMES))
"""Every architecture that has a row in a table: the paper's, ours, then those on Pythia's blocks. Consumers iterate over this; every
other row on NeoX blocks parses all the same."""
