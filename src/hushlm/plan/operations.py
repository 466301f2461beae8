"""The operations a private computation is made of: what each computes, and its sizes. No weights, no numerics.

Legend: rows = query tokens computed in this pass, keys = tokens attended to (rows plus those in the key-value cache).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hushlm.plan.cuts import Cut
from hushlm.plan.step_names import StepName

__all__ = [
    "Activate",
    "Divide",
    "Embed",
    "Gate",
    "Kernel",
    "Mix",
    "Normalise",
    "Operation",
    "Project",
    "Reveal",
    "Rotate",
    "ScaleRows",
    "Scores",
    "Step",
    "needed_squarings",
    "parse_reveal",
    "row_lengths",
]


RevealKind = Literal["token", "topk", "logits"]

MOST_REVEALED = 64
"""The largest K of top-K."""


@dataclass(frozen=True)
class Embed:
    """Client's one-hot rows times the server's table, plus the server's positions: (rows, vocabulary) -> (rows, width).

    `cut` as in `Project`.
    """

    rows: int
    vocabulary: int
    width: int
    cut: Cut


@dataclass(frozen=True)
class Normalise:
    """(x - mean) / sqrt(variance + eps) of each row; with `affine`, times a gain plus a bias of the server's.

    Attributes:
        squares_block, scaling_block: rows of one matrix product for the variance and for the division, as `hushlm.plan.cuts` says; 0 for
            products of numbers.
    """

    rows: int
    width: int
    affine: bool
    squares_block: int
    scaling_block: int


@dataclass(frozen=True)
class Project:
    """Shared (rows, inner) times the server's (inner, outer), plus the server's bias; computed as `cut` says."""

    rows: int
    inner: int
    outer: int
    cut: Cut


@dataclass(frozen=True)
class ScaleRows:
    """Elementwise product of the shared queries (rows, width) with the server's inverse temperatures."""

    rows: int
    width: int


@dataclass(frozen=True)
class Rotate:
    """Rotary positions: the first `width` entries of every head of the shared queries and of `rows` new keys, turned by public angles."""

    heads: int
    queries: int
    rows: int
    width: int


@dataclass(frozen=True)
class Scores:
    """Q K^T of two shared tensors, a product a head, or one for all heads (`joined`)."""

    heads: int
    rows: int
    keys: int
    head_width: int
    joined: bool


@dataclass(frozen=True)
class Kernel:
    """Unnormalised attention weights max(0, 1 + z/2^n)^(2^n), z = score - row maximum, and their row sums.

    Attributes:
        squarings: n.
        bounded: the kernel has bounded support (SMn); otherwise it stands for exp, and z is clipped where exp is negligible.
        triangle: row t has its first t + 1 keys alone; otherwise every row has all, up to a public mask.
        written_out: of the scores that go through it, how many, the last ones, are squared as x * x.
        exponentials: calls of the engine's exponential for the others, each of squarings / exponentials squarings.
    """

    heads: int
    rows: int
    keys: int
    squarings: int
    bounded: bool
    triangle: bool
    written_out: int
    exponentials: int

    @property
    def elements(self) -> int:
        """Scores that go through maximum and exponential, of all heads."""
        return self.heads * sum(row_lengths(self))


@dataclass(frozen=True)
class Mix:
    """Attention weights times V, both shared; `joined` as in `Scores`."""

    heads: int
    rows: int
    keys: int
    head_width: int
    joined: bool


@dataclass(frozen=True)
class Divide:
    """Reciprocal of heads x rows sums, and its product with `width` entries of each.

    Attributes:
        largest: of the sums, which are at least 1.
        polynomial: the reciprocal by comparisons and a polynomial, otherwise the engine's.
        block: of the heads x rows rows, how many one product with a diagonal matrix divides; 0 for products of numbers.
    """

    heads: int
    rows: int
    width: int
    largest: int
    polynomial: bool
    block: int


@dataclass(frozen=True)
class Activate:
    """Elementwise FFN activation of (rows, width).

    Attributes:
        built_in_squares: squares are the engine's own, inside its exponential of one squaring; otherwise x * x.
    """

    rows: int
    width: int
    kind: Literal["relu", "squared-relu", "polynomial", "square", "gelu-quartic", "gelu-tanh"]
    built_in_squares: bool


@dataclass(frozen=True)
class Gate:
    """Elementwise product of the halves of each row, both shared: (rows, 2 width) -> (rows, width)."""

    rows: int
    width: int


@dataclass(frozen=True)
class Reveal:
    """What the client learns of `vocabulary` logits: the arg max, the `top` largest with their ids, or all of them.

    Only the server's output share moves; arg max and top-k are computed on shares before.
    """

    vocabulary: int
    kind: RevealKind
    top: int = 1


def parse_reveal(text: str) -> tuple[RevealKind, int]:
    """Kind and number of what is opened, from "token", "topk:K" or "logits".

    Raises:
        ValueError: for anything else, in one sentence.
    """
    kind, _, number = text.partition(":")
    if kind == "topk" and number.isdigit() and 1 <= int(number) <= MOST_REVEALED:
        return "topk", int(number)
    if kind in ("token", "logits") and not number:
        return "token" if kind == "token" else "logits", 1
    raise ValueError(f"What to reveal must be token, topk:K with K from 1 to {MOST_REVEALED}, or logits, not {text!r}.")


Operation = Embed | Normalise | Project | ScaleRows | Rotate | Scores | Kernel | Mix | Divide | Activate | Gate | Reveal


@dataclass(frozen=True)
class Step:
    """One compiled program.

    Attributes:
        name: what it computes, unique within a layer; steps of equal operations share one compilation.
        layer: 0-based block, or None outside the blocks.
        operation: with its sizes.
    """

    name: StepName
    layer: int | None
    operation: Operation


def row_lengths(kernel: Kernel) -> list[int]:
    """How many scores of each row go through the kernel."""
    return list(range(1, kernel.rows + 1)) if kernel.triangle else [kernel.keys] * kernel.rows


def needed_squarings(operation: Operation) -> int | None:
    """The squarings of the engine's exponential that an operation relies on; None where any will do."""
    match operation:
        case Kernel() if operation.written_out < operation.elements:
            return operation.squarings // operation.exponentials
        case Activate() if operation.built_in_squares:
            return 1
        case _:
            return None
