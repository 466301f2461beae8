"""What the calls of an online form move and take: the engine's in its two rings, words that the parties send each other, local products."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hushlm.cost.constants import Constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.prepared.online_constants import OnlineConstants
from hushlm.cost.primitives import Primitives
from hushlm.plan import ProtocolSettings
from hushlm.plan.engine_tiles import SHARE_BYTES, ceil_div
from hushlm.plan.protocol_settings import SMALL_RING_BITS

__all__ = ["OnlineCalls", "online_calls"]

WEIGHT_LIMBS = {64: 3, 32: 2}
"""In so many pieces words are cut to be multiplied with weights exactly in float64, by the bits of the ring."""

SET_UP_ROWS = 32
"""A session's first program, which makes keys and fills stocks, has so many rows for each thread of the engine."""

FULL_LIMB_PRODUCTS = 6
"""Of three pieces each, these products matter modulo 2^64."""


def _named(exchange: Exchange, rounds: float, seconds: float) -> Exchange:
    return replace(exchange, rounds=rounds, cpu_seconds=seconds)


@dataclass(frozen=True)
class OnlineCalls:
    """The prices of the calls that online forms are made of.

    Attributes:
        large, small: bytes and messages of the engine's primitives in 64 and in 32 bits.
        constants: round trips and seconds, fitted to micro-runs of these calls.
    """

    large: Primitives
    small: Primitives
    constants: OnlineConstants

    @property
    def fraction_bits(self) -> int:
        return self.large.settings.fraction_bits

    def set_up(self) -> Exchange:
        """What a session that answers from prepared material moves once: both rings' stocks, keys, and `PreparedGenerator.set_up`."""
        n = SET_UP_ROWS * self.large.settings.threads
        warm = self.large.product_shared(n, 64, 64) + self.large.multiply(64 * n) + self.large.triple_batch()
        warm += self.compare(64 * n) + self.where(64 * n) + self.truncate(64 * n, 3)
        return replace(self.large.set_up() + self.small.set_up() + warm, triples=(), forward_transfers=(), back_transfers=())

    def program(self) -> Exchange:
        """Handing words to a program of the engine, and taking its results back."""
        return Exchange(cpu_seconds=self.constants.program_seconds)

    def truncate(self, n: int, times: int = 1) -> Exchange:
        """`Desk.truncate`, so many times over."""
        c = self.constants
        once = _named(self.large.truncate(n), c.truncation_rounds, c.call_seconds + n * c.truncation_seconds)
        return (self.program() + once).times(times)

    def divide(self, n: int, bits: int) -> Exchange:
        """`Desk.divide` by 2^bits: a truncation drops the fraction bits at most."""
        return self.truncate(n, ceil_div(bits, self.fraction_bits))

    def widen(self, n: int, bits: int = 0) -> Exchange:
        """`Desk.widen`."""
        return self.divide(n, SMALL_RING_BITS + bits)

    def where(self, n: int) -> Exchange:
        """`Desk.where`: a selection in the large ring."""
        c = self.constants
        return self.program() + _named(self.large.select(n), c.select_rounds, c.call_seconds + n * c.select_seconds)

    def compare(self, n: int) -> Exchange:
        """A comparison inside a program of the small ring."""
        c = self.constants
        return _named(self.small.compare(n), c.compare_rounds, c.call_seconds + n * c.compare_seconds)

    def select(self, n: int) -> Exchange:
        """A selection inside a program of the small ring."""
        c = self.constants
        return _named(self.small.select(n), c.select_rounds, c.call_seconds + n * c.select_seconds)

    def larger(self, n: int) -> Exchange:
        """The larger of two numbers inside a program of the small ring."""
        return self.compare(n) + self.select(n)

    def maxima(self, lengths: list[int], heads: int) -> Exchange:
        """`row_maxima` of the rows of every head, by one tournament."""
        total = Exchange()
        while any(length > 1 for length in lengths):
            total += self.larger(heads * sum(length // 2 for length in lengths))
            lengths = [length - length // 2 for length in lengths]
        return total

    def arg_maximum(self, n: int) -> Exchange:
        """The id of the largest of n numbers, by a tournament in the small ring; `Primitives.arg_maximum` has the same form."""
        c, total, first = self.constants, Exchange(), True
        while n > 1:
            pairs = n // 2
            ids = self.select(pairs)
            if first:
                ids = _named(self.small.bit_to_share(pairs), c.truncation_rounds, c.call_seconds + pairs * c.truncation_seconds)
            total += self.compare(pairs) + ids + (self.select(pairs) if n > 2 else Exchange())
            n, first = n - pairs, False
        return total

    def open(self, words: int) -> Exchange:
        """`WordLink.open`: both parties send."""
        c, size = self.constants, words * SHARE_BYTES
        return Exchange(size, size, 1, 1, c.open_rounds, c.message_seconds + words * c.word_seconds)

    def send(self, size_bytes: int, forward: bool = True) -> Exchange:
        """`WordLink.send` by the client, or by the server where not `forward`."""
        c = self.constants
        seconds = c.message_seconds / 2 + size_bytes / SHARE_BYTES / 2 * c.word_seconds
        sent = Exchange(rounds=c.send_rounds, cpu_seconds=seconds)
        return (
            replace(sent, forward_bytes=size_bytes, forward_messages=1)
            if forward
            else replace(sent, back_bytes=size_bytes, back_messages=1)
        )

    def weight_product(self, rows: int, inner: int, outer: int, ring_bits: int = 64) -> Exchange:
        """`WeightMatrix.product`: at the server alone, nothing moves."""
        c, limbs = self.constants, WEIGHT_LIMBS[ring_bits]
        multiplied = limbs * rows * inner * outer * c.multiplication_seconds + inner * outer * c.weight_seconds
        return Exchange(cpu_seconds=multiplied + limbs * rows * (inner + outer) * c.limb_seconds)

    def full_products(self, rows: int, inner: int, outer: int, count: int) -> Exchange:
        """`full_product`, so many times, at both parties."""
        c = self.constants
        once = FULL_LIMB_PRODUCTS * rows * inner * outer * c.full_multiplication_seconds
        return Exchange(cpu_seconds=2 * count * (once + FULL_LIMB_PRODUCTS * (rows * inner + inner * outer) * c.limb_seconds))


def online_calls(constants: Constants, online: OnlineConstants, settings: ProtocolSettings) -> OnlineCalls:
    """The prices of calls with these constants."""
    return OnlineCalls(Primitives(constants, settings), Primitives(constants, settings, SMALL_RING_BITS), online)
