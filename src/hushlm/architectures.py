"""The vocabulary of architectures: which nonlinearities a decoder-only language model keeps, and how that is written.

A name lists exactly the nonlinearities that are present, in the notation of arXiv 2501.03489. It can be parsed back:
`parse(str(a)) == a`.

    EReg( NeoX( SM 2 (t) + WNorm(QK) + LNf + ScFuFFN(6 deepest FFNs removed) ) )
    |     |     |  |  |    |           |     |       `- layers whose feed-forward network (FFN) is left out, counted from the deepest
    |     |     |  |  |    |           |     `- FFN: G (GELU), R (ReLU), R2 (its square), P (polynomial), Q (square), B (bilinear),
    |     |     |  |  |    |           |        Swi (SwiGLU), SwiQ (the same with a quadratic in place of SiLU), ScFFN, ScFuFFN, or
    |     |     |  |  |    |           |        nothing (identity activation)
    |     |     |  |  |    |           `- one LayerNorm, before the head, where the blocks have none (LN brings it with it)
    |     |     |  |  |    `- normalisation: LN, RMS (RMSNorm), WNorm(X), SNorm(X), or nothing
    |     |     |  |  `- learnable temperature: (t) per head and query position, (th) per head, or nothing; qk in the same brackets, as
    |     |     |  |     in (th,qk): query-key normalisation
    |     |     |  `- attention kernel: nothing (exact softmax) or n, for p ~ max(0, 1 + (s - max s)/2^n)^(2^n)
    |     |     `- softmax; or PS, always with n, for the power kernel p ~ (1 + s/2^n)^(2^n), which compares nothing
    |     `- GPT-NeoX blocks: rotary positions, attention and FFN side by side; Llama: rotary positions, one after the other, no biases;
    |        GPT-2's without either
    `- trained with the entropy regulariser (a matter of training: same graph, cost and export)

An architecture is a value. Nothing in the system looks into its name.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from enum import Enum

__all__ = [
    "GATE_BOUND",
    "GATE_QUADRATIC",
    "LARGEST_MEAN_WEIGHT",
    "POWER_FLOOR",
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
"""The linear layers on which WNorm and SNorm can act: queries, keys, values and output of attention, and the FFN."""

KERNEL_ORDERS = (1, 2, 3)
"""The orders n that an attention kernel SMn or PSn can have."""

POWER_FLOOR = 2.0**-10
"""Added to every weight of a power kernel PSn, so that its row sums are bounded from below: no weight is 0, and no sum is small."""

LARGEST_MEAN_WEIGHT = 2.0**15
"""The mean weight of a power kernel's row up to which a private program can divide by the row's sum."""


class Temperature(Enum):
    """The learnable temperature t of the softmax. The scores are q.k / (t sqrt(E)), where E is the width of a head."""

    NONE = ""
    PER_HEAD_AND_POSITION = "(t)"
    """The paper's: t has the shape (H, T), for H heads and T positions. In private inference it is an elementwise product with one of the
    server's tensors."""
    PER_HEAD = "(th)"
    """t has the shape (H,). Export folds it into the query projection, so that it costs nothing."""


class Norm(Enum):
    """The normalisation of the blocks. WNorm and SNorm act on weights and cost nothing at inference."""

    NONE = ""
    LAYER = "LN"
    RMS = "RMS"
    """x / sqrt(mean(x^2) + epsilon), times a gain: LayerNorm without mean and bias."""
    WEIGHT = "WNorm"
    SPECTRAL = "SNorm"


class Blocks(Enum):
    """How a block is built. Any choice of nonlinearities goes with either kind.

    In blocks of GPT2, positions are learned, the feed-forward network (FFN) reads the residual stream after attention, and GELU has its
    tanh form. In blocks of NEOX, positions are rotary (on `shape.rotary_share` of every head), the FFN reads what attention reads, and GELU
    is the exact one, x Phi(x). In blocks of LLAMA, positions are rotary, the FFN reads the stream after attention as in GPT-2's, and linear
    maps have no biases, except queries, keys and values where `shape.qkv_bias` says so; GELU is the exact one.
    """

    GPT2 = ""
    NEOX = "NeoX"
    LLAMA = "Llama"


class FeedForward(Enum):
    """The feed-forward network (FFN) of a block. Below, x_sa is the residual stream after attention and N the normalisation.

    GELU, RELU, SQUARED_RELU, POLYNOMIAL, QUADRATIC and IDENTITY compute x_sa + W_out act(W_in N(x_sa)). For SQUARED_RELU,
    act(u) = max(0, u)^2. For QUADRATIC, act(u) = u^2. For POLYNOMIAL, act is a ReLU with a quadratic joint, (u + 1)^2 / 4 for |u| <= 1, so
    that the private program computes exactly what was trained.

    BILINEAR computes x_sa + W_out ((W_in N(x_sa)) (W_gate N(x_sa))), with an elementwise product. W_gate is F x D like W_in, so that at
    the same FFN width F it has 1.5 times the parameters.

    SWIGLU computes x_sa + W_out ((W_in N(x_sa)) SiLU(W_gate N(x_sa))) with SiLU(g) = g / (1 + e^-g). SWIGLU_QUADRATIC has in place of SiLU
    a function that is quadratic in |g| near 0 and a ReLU beyond, with three numbers of its own in each layer, fitted to SiLU on sample
    text (`hushlm.model.gate_curve`).

    SCALED (ScFFN) computes beta x_sa + (1/alpha) W_out W_in x_sa. SCALED_FUSED (ScFuFFN) computes the same with one D x D matrix in place
    of W_out W_in.

    In NeoX blocks, W_in, W_gate and the one matrix are applied to the stream before attention.
    """

    GELU = "G"
    RELU = "R"
    SQUARED_RELU = "R2"
    POLYNOMIAL = "P"
    QUADRATIC = "Q"
    BILINEAR = "B"
    SWIGLU = "Swi"
    SWIGLU_QUADRATIC = "SwiQ"
    IDENTITY = ""
    SCALED = "ScFFN"
    SCALED_FUSED = "ScFuFFN"

    @property
    def is_linear(self) -> bool:
        """Whether there is no nonlinearity between the FFN's input and its output."""
        return self is FeedForward.IDENTITY or self.is_scaled

    @property
    def is_gated(self) -> bool:
        """Whether the FFN multiplies two linear maps of what it reads."""
        return self in (FeedForward.BILINEAR, FeedForward.SWIGLU, FeedForward.SWIGLU_QUADRATIC)

    @property
    def is_scaled(self) -> bool:
        """Whether every layer has the learnable scalars alpha and beta."""
        return self in (FeedForward.SCALED, FeedForward.SCALED_FUSED)


GATE_BOUND, GATE_QUADRATIC = 4.0, 0.0625
"""B and q of the gate of SwiQ, F(h) = h/2 + q v^2 + c v + d + (|h| - v)/2 with v = min(|h|, B). The same for every layer, and public."""


@dataclass(frozen=True)
class Architecture:
    """Which nonlinearities a model keeps. It is immutable and hashable, and `str(a)` is its name.

    Attributes:
        kernel_order: the order n of the attention kernel (1 + z/2^n)^(2^n), or None for the exact softmax.
        power: whether the kernel reads the scores s themselves, PSn, and not z = max(s - max s, -2^n), SMn.
        query_key_norm: whether the maps to queries and to keys are normalised, so that over inputs of unit variance the mean square of
            each head's queries and keys is 1, as `hushlm.model.self_attention.unit_gain` has it. Inference never sees it.
        temperature: the learnable temperature of the softmax.
        norm: the normalisation of the blocks.
        norm_layers: the linear layers on which WNorm and SNorm act, which is one of `STATIC_NORM_LAYERS`; "" for other normalisations.
        feed_forward: the FFN of each block.
        removed_ffns: how many of the deepest blocks have no FFN at all.
        blocks: whether blocks are built like GPT-2's, GPT-NeoX's or LLaMA's.
        final_norm: whether there is a LayerNorm before the head although the blocks have none, as in the paper's own code. With LN or RMS
            there is a norm of that kind anyway.
        entropy_regularised: whether the model is trained with the entropy regulariser. Without it the graph is the same.

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
    power: bool = False
    query_key_norm: bool = False

    def __post_init__(self) -> None:
        if self.power and self.kernel_order not in KERNEL_ORDERS:
            raise ValueError(f"PS{self.kernel_order or ''}: a power kernel needs its order, one of {KERNEL_ORDERS}.")
        if self.query_key_norm and not self.has_block_norm:
            raise ValueError("qk takes queries and keys of a row of known size: add LN or RMS, or leave out qk.")
        if self.kernel_order is not None and self.kernel_order not in KERNEL_ORDERS:
            raise ValueError(f"SM{self.kernel_order}: the kernel's order must be one of {KERNEL_ORDERS}, or absent for exact softmax.")
        static = self.norm in (Norm.WEIGHT, Norm.SPECTRAL)
        if static and self.norm_layers not in STATIC_NORM_LAYERS:
            raise ValueError(f"{self.norm.value}({self.norm_layers}): the linear layers must be one of {', '.join(STATIC_NORM_LAYERS)}.")
        if not static and self.norm_layers:
            raise ValueError(f"Linear layers ({self.norm_layers}) can only be named for WNorm and SNorm.")
        if self.removed_ffns < 0:
            raise ValueError("The number of removed FFNs must not be negative.")
        if self.has_block_norm and self.feed_forward.is_scaled:
            raise ValueError(
                f"{self.feed_forward.value} stands in for LayerNorm: leave out {self.norm.value}, or use G, R or the identity FFN with it."
            )
        if self.has_block_norm and self.final_norm:
            named = "a LayerNorm" if self.norm is Norm.LAYER else "an RMSNorm"
            raise ValueError(f"{self.norm.value} has {named} before the head already: leave out LNf.")

    def __str__(self) -> str:
        options = [*filter(None, [self.temperature.value.strip("()")]), *(["qk"] if self.query_key_norm else [])]
        kernel = ("PS" if self.power else "SM") + (str(self.kernel_order) if self.kernel_order else "")
        parts = [kernel + (f"({','.join(options)})" if options else "")]
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
        """Whether there are LayerNorms in the blocks."""
        return self.norm is Norm.LAYER

    @property
    def has_block_norm(self) -> bool:
        """Whether there are LayerNorms or RMSNorms in the blocks."""
        return self.norm in (Norm.LAYER, Norm.RMS)

    @property
    def has_final_norm(self) -> bool:
        """Whether there is a LayerNorm or an RMSNorm before the head."""
        return self.has_block_norm or self.final_norm

    @property
    def is_parallel(self) -> bool:
        """Whether attention and FFN read the same stream, as in GPT-NeoX blocks."""
        return self.blocks is Blocks.NEOX

    @property
    def is_rotary(self) -> bool:
        """Whether positions are rotary, so that there is no table of learned ones."""
        return self.blocks in (Blocks.NEOX, Blocks.LLAMA)

    @property
    def has_biases(self) -> bool:
        """Whether every linear map of the blocks has a bias."""
        return self.blocks is not Blocks.LLAMA

    @property
    def squarings(self) -> int:
        """How many squarings the attention kernel takes: its order n, or 6 for the exponential (1 + z/64)^64 of the exact softmax."""
        return self.kernel_order if self.kernel_order is not None else EXACT_SOFTMAX_SQUARINGS

    def has_ffn(self, layer: int, layers: int) -> bool:
        """Whether the block number `layer` (counted from 0) of a model with `layers` blocks has an FFN.

        Raises:
            ValueError: if more FFNs are removed than there are layers.
        """
        if self.removed_ffns > layers:
            raise ValueError(f"{self} removes {self.removed_ffns} FFNs, but the model has only {layers} layers.")
        return layer < layers - self.removed_ffns

    def without_regulariser(self) -> Architecture:
        """The same architecture, trained without the entropy regulariser."""
        return replace(self, entropy_regularised=False)


EXACT_SOFTMAX_SQUARINGS = 6
"""The squarings of the exponential (1 + z/64)^64 of the exact softmax."""

_NAME = re.compile(
    r"(?P<kernel>SM|PS)(?P<order>\d+)?(?:\((?P<options>t|th|qk|t,qk|th,qk)\))?"
    r"(?:\+(?P<norm>LN|RMS|WNorm|SNorm)(?:\((?P<layers>[QKVOFN+]+)\))?)?(?P<final>\+LNf)?"
    r"(?:\+(?P<ffn>ScFuFFN|ScFFN|SwiQ|Swi|G|R2|R|P|Q|B))?"
    r"(?:\((?P<removed>\d+) deepest FFNs removed\))?"
)


def parse(name: str) -> Architecture:
    """The architecture with a given name; the inverse of `str`.

    Args:
        name: for example "SM+LN+G" or "EReg(SM(t)+ScFuFFN)"; spaces around it are ignored.

    Raises:
        ValueError: if the name is unknown; the message has the nearest known names.
    """
    text = name.strip()
    regularised = re.fullmatch(r"EReg\((.*)\)", text)
    inner = regularised[1] if regularised else text
    family = re.fullmatch(r"(NeoX|Llama)\((.*)\)", inner)
    match = _NAME.fullmatch(family[2] if family else inner)
    if match is None:
        near = difflib.get_close_matches(text, [str(a) for a in REGISTRY], n=3, cutoff=0.3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        if text.lower().startswith("hush-"):
            hint = " It may be a recommended model, which has an architecture and sizes of its own."
        raise ValueError(f"Unknown architecture {name!r}.{hint} `hushlm architectures` lists the names.")
    options = (match["options"] or "").split(",")
    temperature = next((option for option in options if option in ("t", "th")), None)
    return Architecture(
        kernel_order=int(match["order"]) if match["order"] else None,
        temperature=Temperature(f"({temperature})" if temperature else ""),
        norm=Norm(match["norm"] or ""),
        norm_layers=match["layers"] or "",
        feed_forward=FeedForward(match["ffn"] or ""),
        removed_ffns=int(match["removed"] or 0),
        entropy_regularised=regularised is not None,
        blocks=Blocks(family[1]) if family else Blocks.GPT2,
        final_norm=match["final"] is not None,
        power=match["kernel"] == "PS",
        query_key_norm="qk" in options,
    )


def slug(architecture: str) -> str:
    """A form of a name that can name a folder: "EReg(SM(t)+ScFuFFN)" becomes "EReg-SM-t-ScFuFFN"."""
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
    "PS2+R",
    "PS3(th,qk)+LN+Q",
    "PS3(th,qk)+LN+B",
)

_NEOX_NAMES = (
    "NeoX(SM+LN+G)",
    "NeoX(SM+LN+R)",
    "NeoX(SM+ScFuFFN)",
    "EReg(NeoX(SM(t)+ScFuFFN))",
    "NeoX(SM2+R)",
)

_LLAMA_NAMES = (
    "Llama(SM+RMS+Swi)",
    "Llama(SM3(th)+RMS+SwiQ)",
    "Llama(SM2(th)+RMS+SwiQ)",
)

REGISTRY: tuple[Architecture, ...] = tuple(parse(name) for name in (*_PAPER_NAMES, *_OWN_NAMES, *_NEOX_NAMES, *_LLAMA_NAMES))
"""Every architecture that has a row in a table: first the paper's, then this project's, then those on Pythia's and on LLaMA's
blocks. Code that needs all architectures iterates over this. Other combinations can be parsed as well."""
