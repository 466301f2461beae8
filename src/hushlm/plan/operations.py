"""The operations that a private computation is made of: what each computes, and its sizes. There are no weights and no numerics here.

Legend: `rows` are the query tokens that this pass computes; `keys` are the tokens that they attend to, which are the rows and the tokens
in the key-value cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hushlm.plan.attention_operations import Divide, Kernel, Mix, PowerKernel, Prepend, Rotate, Scores
from hushlm.plan.cuts import Cut
from hushlm.plan.step_names import StepName

__all__ = [
    "Activate",
    "ActivatedGate",
    "Embed",
    "Gate",
    "Normalise",
    "Operation",
    "Project",
    "Reveal",
    "RmsNormalise",
    "ScaleRows",
    "Step",
    "needed_squarings",
    "parse_reveal",
]


RevealKind = Literal["token", "topk", "logits"]

MOST_REVEALED = 64
"""The largest number of logits that top-K may reveal."""


@dataclass(frozen=True)
class Embed:
    """The client's one-hot rows times the server's table, plus the server's positions: (rows, vocabulary) -> (rows, width).

    `cut` says how the product is cut.
    """

    rows: int
    vocabulary: int
    width: int
    cut: Cut


@dataclass(frozen=True)
class Normalise:
    """(x - mean) / sqrt(variance + eps) of each row.

    Attributes:
        affine: whether the result is multiplied by a gain of the server's, and a bias of the server's is added.
        squares_block, scaling_block: how many rows one matrix product covers for the variance and for the division, as
            `hushlm.plan.cuts` chooses them; 0 where single numbers are multiplied instead.
    """

    rows: int
    width: int
    affine: bool
    squares_block: int
    scaling_block: int


@dataclass(frozen=True)
class RmsNormalise:
    """x / sqrt(mean(x^2) + epsilon) of each row.

    Attributes:
        affine: whether the result is multiplied by a gain of the server's.
        epsilon: what is added to the mean square.
        squares_block, scaling_block: as those of `Normalise`.
    """

    rows: int
    width: int
    affine: bool
    epsilon: float
    squares_block: int
    scaling_block: int


@dataclass(frozen=True)
class Project:
    """A shared matrix (rows, inner) times the server's (inner, outer), plus the server's bias. `cut` says how the product is cut."""

    rows: int
    inner: int
    outer: int
    cut: Cut


@dataclass(frozen=True)
class ScaleRows:
    """The elementwise product of the shared queries (rows, width) with the server's inverse temperatures."""

    rows: int
    width: int


@dataclass(frozen=True)
class Activate:
    """The elementwise activation of a feed-forward network, on a shared (rows, width).

    Attributes:
        kind: the function that is computed.
        built_in_squares: whether squares are the engine's own, computed inside its exponential of one squaring; otherwise they are x * x.
    """

    rows: int
    width: int
    kind: Literal["relu", "squared-relu", "polynomial", "square", "gelu-quartic", "gelu-tanh"]
    built_in_squares: bool


@dataclass(frozen=True)
class Gate:
    """The elementwise product of the two halves of each shared row: (rows, 2 width) -> (rows, width)."""

    rows: int
    width: int


@dataclass(frozen=True)
class ActivatedGate:
    """The first half of each shared row times a function of the second half, elementwise: (rows, 2 width) -> (rows, width).

    Attributes:
        kind: the function of a gate h. "silu-quartic" is h/2 plus a quartic in |h| below a bound and |h|/2 beyond, near h sigmoid(2h).
            "silu-tanh" is h/2 (1 + tanh h), the same. "silu-quadratic" is q (min(|h|, B) + p)^2 + (h + |h|)/2 + r, with the server's own
            p and r.
        built_in_squares: as that of `Activate`.
    """

    rows: int
    width: int
    kind: Literal["silu-quartic", "silu-tanh", "silu-quadratic"]
    built_in_squares: bool


@dataclass(frozen=True)
class Reveal:
    """What the client learns of `vocabulary` logits: the arg max, the `top` largest ones with their ids, or all of them.

    Where these are the logits of fewer tokens than the model has, of candidates, the head computes no others.

    The arg max and the largest logits are computed on shares, so that nothing but the server's share of the result is sent.

    Attributes:
        rows: for how many rows; 1 but in a pass over several further tokens. Keys of result files spell an operation out without it.
    """

    vocabulary: int
    kind: RevealKind
    top: int = 1
    rows: int = field(default=1, repr=False)


def parse_reveal(text: str) -> tuple[RevealKind, int]:
    """The kind and the number of what is revealed, from "token", "topk:K" or "logits".

    Raises:
        ValueError: in one sentence, for anything else.
    """
    kind, _, number = text.partition(":")
    if kind == "topk" and number.isdigit() and 1 <= int(number) <= MOST_REVEALED:
        return "topk", int(number)
    if kind in ("token", "logits") and not number:
        return "token" if kind == "token" else "logits", 1
    raise ValueError(f"What to reveal must be token, topk:K with K from 1 to {MOST_REVEALED}, or logits, not {text!r}.")


Operation = (
    Embed
    | Normalise
    | RmsNormalise
    | Project
    | ScaleRows
    | Rotate
    | Prepend
    | Scores
    | Kernel
    | PowerKernel
    | Mix
    | Divide
    | Activate
    | Gate
    | ActivatedGate
    | Reveal
)


@dataclass(frozen=True)
class Step:
    """One step of a plan, which runs as one compiled program.

    Attributes:
        name: what the step computes; the name is unique within a layer. Steps of equal operations share one compilation.
        layer: the number of the block, counted from 0, or None outside the blocks.
        operation: the operation and its sizes.
    """

    name: StepName
    layer: int | None
    operation: Operation


def needed_squarings(operation: Operation) -> int | None:
    """The squarings of the engine's exponential that an operation relies on; None where any will do."""
    match operation:
        case Kernel() | PowerKernel() if operation.written_out < operation.elements:
            return operation.squarings // operation.exponentials
        case Activate() | ActivatedGate() if operation.built_in_squares:
            return 1
        case _:
            return None
