"""The operations that a private computation is made of: what each computes, and its sizes. There are no weights and no numerics here.

Legend: `rows` are the query tokens that this pass computes; `keys` are the tokens that they attend to, which are the rows and the tokens
in the key-value cache.
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
    "halvings",
    "needed_squarings",
    "parse_reveal",
    "row_lengths",
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
class Rotate:
    """Rotary positions: the first `width` entries of every head, of the shared queries and keys, are turned by public angles.

    There are `queries` rows of queries and `rows` rows of new keys.
    """

    heads: int
    queries: int
    rows: int
    width: int


@dataclass(frozen=True)
class Scores:
    """Q K^T of two shared tensors, as one product for each head, or as one product for all heads where it is `joined`."""

    heads: int
    rows: int
    keys: int
    head_width: int
    joined: bool


@dataclass(frozen=True)
class Kernel:
    """Unnormalised attention weights max(0, 1 + z/2^n)^(2^n) with z = score - row maximum, and the sums of their rows.

    Attributes:
        squarings: the number n.
        bounded: whether the kernel is zero below z = -2^n (SMn). Otherwise it stands for exp, and z is clipped where exp is negligible.
        triangle: whether row t has its first t + 1 keys alone. Otherwise every row has all keys, up to a public mask.
        written_out: how many of the scores that go through the kernel are squared as x * x; these are the last ones.
        exponentials: how many calls of the engine's exponential the other scores go through; each makes squarings / exponentials of the
            squarings.
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
        """How many scores of all heads together go through maximum and exponential."""
        return self.heads * sum(row_lengths(self))


@dataclass(frozen=True)
class Mix:
    """The attention weights times V, both shared, as one product for each head, or as one for all heads where it is `joined`."""

    heads: int
    rows: int
    keys: int
    head_width: int
    joined: bool


@dataclass(frozen=True)
class Divide:
    """The reciprocals of heads x rows sums, each multiplied with the `width` entries of its row.

    Attributes:
        largest: the largest value that a sum can have; the smallest is 1.
        polynomial: whether the reciprocal is computed by comparisons and a polynomial; otherwise it is the engine's own.
        block: how many of the heads x rows rows are divided by one product with a diagonal matrix; 0 where single numbers are multiplied
            instead.
    """

    heads: int
    rows: int
    width: int
    largest: int
    polynomial: bool
    block: int


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
class Reveal:
    """What the client learns of `vocabulary` logits: the arg max, the `top` largest ones with their ids, or all of them.

    The arg max and the largest logits are computed on shares, so that nothing but the server's share of the result is sent.
    """

    vocabulary: int
    kind: RevealKind
    top: int = 1


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


Operation = Embed | Normalise | Project | ScaleRows | Rotate | Scores | Kernel | Mix | Divide | Activate | Gate | Reveal


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


def row_lengths(kernel: Kernel) -> list[int]:
    """How many scores of each row go through a kernel."""
    return list(range(1, kernel.rows + 1)) if kernel.triangle else [kernel.keys] * kernel.rows


def halvings(largest: int) -> int:
    """With how many powers of two, 2, 4, ..., the reciprocal of a number from 1 to `largest` compares it to bring it to [1, 2]."""
    return max(0, (largest - 1).bit_length() - 1)


def needed_squarings(operation: Operation) -> int | None:
    """The squarings of the engine's exponential that an operation relies on; None where any will do."""
    match operation:
        case Kernel() if operation.written_out < operation.elements:
            return operation.squarings // operation.exponentials
        case Activate() if operation.built_in_squares:
            return 1
        case _:
            return None
