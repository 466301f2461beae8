"""Values that are not shares: a tensor of the server's, rows of the client's, a result of the small ring."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hushlm.private.engine.shares import Words, encode
from hushlm.private.engine.small_ring import SmallWords
from hushlm.private.prepared.ring import WeightMatrix

__all__ = ["ClientRows", "ServerValue", "SmallValue"]


@dataclass
class ServerValue:
    """A tensor that the server alone knows.

    Attributes:
        name: of the variable.
        shape: known to both parties.
        value: at the server; None at the client.
    """

    name: str
    shape: tuple[int, ...]
    value: np.ndarray | None
    fraction_bits: int
    _matrices: dict[int, WeightMatrix] = field(default_factory=dict, repr=False)

    def whole(self) -> np.ndarray:
        """At the server: the tensor in fixed point, as signed whole numbers."""
        assert self.value is not None
        return encode(self.value, self.fraction_bits).view(np.int64)

    def matrix(self, ring_bits: int = 64) -> WeightMatrix:
        """At the server: ready for products with words modulo 2^ring_bits; kept."""
        if ring_bits not in self._matrices:
            self._matrices[ring_bits] = WeightMatrix(self.whole(), ring_bits)
        return self._matrices[ring_bits]

    def words(self, fraction_bits: int) -> Words:
        """This party's words of the tensor as a shared value: the server has all of it."""
        return np.zeros(self.shape, np.uint64) if self.value is None else encode(self.value, fraction_bits)


@dataclass
class ClientRows:
    """Rows that the client alone knows, of its prompt: at the server `value` is None."""

    shape: tuple[int, ...]
    value: np.ndarray | None


@dataclass
class SmallValue:
    """This party's words, modulo 2^32, of numbers with `SMALL_FRACTION_BITS` fraction bits."""

    words: SmallWords
