"""The operations inside attention, from queries and keys to weighted values; `hushlm.plan.operations` has the legend and the others."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass

from hushlm.architectures import LARGEST_MEAN_WEIGHT, POWER_FLOOR

__all__ = [
    "LARGEST_POWER_SUM",
    "POWER_SUM",
    "SMALLEST_POWER_SUM",
    "Divide",
    "Kernel",
    "Mix",
    "PowerKernel",
    "Prepend",
    "Rotate",
    "Scores",
    "halvings",
    "row_lengths",
]


class _BriefRepr:
    """A repr without fields at their defaults: they are younger than results/gpt2-private-counts.json, whose keys contain reprs."""

    def __repr__(self) -> str:
        assert is_dataclass(self)
        shown = [f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if getattr(self, field.name) != field.default]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class Rotate(_BriefRepr):
    """Rotary positions: the first `width` entries of every head, of the shared queries and keys, are turned by public angles.

    There are `queries` rows of queries and `rows` rows of new keys, of `key_heads` heads; None is as many as of queries.
    """

    heads: int
    queries: int
    rows: int
    width: int
    key_heads: int | None = None

    @property
    def entries(self) -> int:
        """How many entries of queries and keys are turned."""
        return (self.heads * self.queries + (self.key_heads or self.heads) * self.rows) * self.width


@dataclass(frozen=True)
class Prepend:
    """The server's `prefix` rows of keys and of values are put before `rows` rows of each head (rows, width). Nothing is computed."""

    heads: int
    prefix: int
    rows: int
    width: int


@dataclass(frozen=True, repr=False)
class Scores(_BriefRepr):
    """Q K^T of two shared tensors, as one product for each head, or as one product for all heads where it is `joined`.

    These are heads of keys: where `groups` heads of queries share one, their `rows` stand behind one another.
    """

    heads: int
    rows: int
    keys: int
    head_width: int
    joined: bool
    groups: int = 1

    @property
    def is_triangle(self) -> bool:
        """Whether row t attends to the first t + 1 keys alone."""
        return self.groups == 1 and self.rows == self.keys


@dataclass(frozen=True)
class Kernel:
    """Unnormalised attention weights max(0, 1 + z/2^n)^(2^n) with z = score - row maximum, and the sums of their rows.

    Attributes:
        squarings: the number n.
        bounded: whether the kernel is zero below z = -2^n (SMn). Otherwise it stands for exp, and z is clipped where exp is negligible.
        triangle: whether row t has its first t + 1 + keys - rows keys alone. Otherwise every row has all keys, up to a public mask.
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


POWER_SUM = 2.0**-3
"""What the weights of a power kernel are divided by the number of allowed keys and multiplied with, so that every row's sum is `POWER_SUM`
times its mean weight. Mean weights of a trained PS3 lie between 2^-6.3 and 2^10.3 for 98% of the rows, with a median of 6: with this factor
the sums and their reciprocals are about equally far from 0, as fixed-point numbers want it."""

SMALLEST_POWER_SUM, LARGEST_POWER_SUM = POWER_SUM * POWER_FLOOR, int(POWER_SUM * LARGEST_MEAN_WEIGHT)
"""Between these the sums must lie. The first is the floor of all weights; the second is the largest number that is compared in the ring of
32 bits with 18 fraction bits, 2^12. Export looks at the sums of a sample prompt."""


@dataclass(frozen=True)
class PowerKernel:
    """Unnormalised attention weights (1 + s/2^n)^(2^n) + `POWER_FLOOR` of the scores s themselves, and the sums of their rows.

    Each row is multiplied with `POWER_SUM` over the number of its allowed keys, which is public: the root of that factor goes into the
    base of the power. A row of a single key has the weight 1, whatever its score. Nothing is compared.

    Attributes:
        squarings: the number n.
        triangle, written_out, exponentials: as those of `Kernel`.
    """

    heads: int
    rows: int
    keys: int
    squarings: int
    triangle: bool
    written_out: int
    exponentials: int

    @property
    def elements(self) -> int:
        """How many scores of all heads together are raised to the power."""
        return self.heads * sum(row_lengths(self))


@dataclass(frozen=True, repr=False)
class Mix(_BriefRepr):
    """The attention weights times V, both shared, as one product for each head, or as one for all heads where it is `joined`.

    Heads, rows and groups are those of `Scores`.
    """

    heads: int
    rows: int
    keys: int
    head_width: int
    joined: bool
    groups: int = 1

    @property
    def is_triangle(self) -> bool:
        """Whether row t attends to the first t + 1 keys alone."""
        return self.groups == 1 and self.rows == self.keys


@dataclass(frozen=True, repr=False)
class Divide(_BriefRepr):
    """The reciprocals of heads x rows sums, each multiplied with the `width` entries of its row.

    Attributes:
        largest: the largest value that a sum can have.
        polynomial: whether the reciprocal is computed by comparisons and a polynomial; otherwise it is the engine's own.
        block: how many of the heads x rows rows are divided by one product with a diagonal matrix; 0 where single numbers are multiplied
            instead.
        smallest: the smallest value that a sum can have, a power of two.
    """

    heads: int
    rows: int
    width: int
    largest: int
    polynomial: bool
    block: int
    smallest: float = 1.0

    @property
    def limits(self) -> int:
        """With how many numbers each sum is compared: `smallest` times 2, 4, ..."""
        return halvings(round(self.largest / self.smallest))


def row_lengths(kernel: Kernel | PowerKernel) -> list[int]:
    """How many scores of each row go through a kernel."""
    return list(range(kernel.keys - kernel.rows + 1, kernel.keys + 1)) if kernel.triangle else [kernel.keys] * kernel.rows


def halvings(largest: int) -> int:
    """With how many powers of two, 2, 4, ..., the reciprocal of a number from 1 to `largest` compares it to bring it to [1, 2]."""
    return max(0, (largest - 1).bit_length() - 1)
