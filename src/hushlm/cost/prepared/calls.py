"""What the calls of an online form move and take: the engine's in its two rings, words that the parties send each other, local products."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, assert_never

from hushlm.cost.calls import CALLS, Call, Kind
from hushlm.cost.constants import Constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.prepared.online_constants import OnlineConstants
from hushlm.cost.primitives import TRANSFER_STOCK, Primitives
from hushlm.plan import ProtocolSettings
from hushlm.plan.engine_tiles import SHARE_BYTES
from hushlm.plan.protocol_settings import SET_UP_WIDTH, SMALL_RING_BITS

__all__ = ["OnlineCalls", "calls_with"]

WEIGHT_LIMBS = {64: 3, 32: 2}
"""In so many pieces words are cut to be multiplied with weights exactly in float64, by the bits of the ring."""

FULL_LIMB_PRODUCTS = 6
"""Of three pieces each, these products matter modulo 2^64."""


@dataclass(frozen=True)
class OnlineCalls:
    """The prices of the calls that online forms are made of.

    Attributes:
        large, small: bytes and messages of the engine's primitives in 64 and in 32 bits.
        constants: seconds, fitted to micro-runs of these calls; round trips are those of `hushlm.cost.calls`.
    """

    large: Primitives
    small: Primitives
    constants: OnlineConstants

    @property
    def fraction_bits(self) -> int:
        return self.large.settings.fraction_bits

    def set_up(self) -> Exchange:
        """What a session that prepares and answers moves once, `PreparedGenerator.set_up`."""
        return self.set_up_preparing() + self.set_up_answer(products=False)

    def set_up_preparing(self) -> Exchange:
        """Keys of products, and a first batch of triples: `PreparedGenerator.set_up_preparing`."""
        n = self.large.settings.set_up_rows
        product = self.large.product_shared(n, SET_UP_WIDTH, SET_UP_WIDTH)
        return _without_stocks(self.large.keys() + product + self.large.multiply(SET_UP_WIDTH * n) + self.large.triple_batch())

    def set_up_answer(self, products: bool) -> Exchange:
        """Both rings' first oblivious transfers, and keys of elementwise products if the engine computes any:
        `PreparedGenerator.set_up_answer`."""
        n = SET_UP_WIDTH * self.large.settings.set_up_rows
        kinds: tuple[Kind, ...] = ("compare", "select-64", "truncate")
        warm = sum((self.price(Call(kind, n)) for kind in kinds), Exchange())
        if products:
            warm += self.large.keys(matrices=False) + self.large.multiply(n) + self.large.triple_batch()
        return self.large.amortised(_without_stocks(self.large.first_transfers() + self.small.first_transfers() + warm))

    def amortised(self, exchange: Exchange) -> Exchange:
        """The steady state of an exchange, with the seconds of its share of refills."""
        refills = (sum(exchange.forward_transfers) + sum(exchange.back_transfers)) / TRANSFER_STOCK
        return self.large.amortised(exchange) + Exchange(cpu_seconds=refills * self.constants.refill_seconds)

    def program(self) -> Exchange:
        """Handing words to a program of the engine, and taking its results back."""
        return Exchange(cpu_seconds=self.constants.program_seconds)

    def price(self, call: Call) -> Exchange:
        """A call of the engine inside its program, or the message of an opening, whose words are `opened`."""
        c, n, today = self.constants, call.elements, self.large.constants
        if not n:
            return Exchange()
        match call.kind:
            case "compare":
                moved, each, waited = self.small.compare(n), c.compare_seconds, today.compare_rounds
            case "and":
                moved, each, waited = self.small.both(n), c.select_seconds, 2 * today.open_rounds
            case "select":
                moved, each, waited = self.small.select(n), c.select_seconds, today.select_rounds
            case "select-64":
                moved, each, waited = self.large.select(n), c.select_seconds, today.select_rounds
            case "truncate":
                moved, each, waited = self.large.truncate(n), c.truncation_seconds, today.truncation_rounds
            case "open":
                return Exchange(forward_messages=1, back_messages=1, rounds=CALLS["open"].rounds, cpu_seconds=c.message_seconds)
            case "client sends":
                return Exchange(forward_messages=1, rounds=CALLS["client sends"].rounds, cpu_seconds=c.message_seconds / 2)
            case "server sends":
                return Exchange(back_messages=1, rounds=CALLS["server sends"].rounds, cpu_seconds=c.message_seconds / 2)
            case _:
                assert_never(call.kind)
        # Those of the call itself are known better here; what its transfers wait for comes on top.
        rounds = CALLS[call.kind].rounds + moved.rounds - waited
        return replace(moved, rounds=rounds, cpu_seconds=c.call_seconds + n * each)

    def opened(self, forward: int, back: int) -> Exchange:
        """Bytes of words that the parties send each other."""
        return Exchange(forward, back, cpu_seconds=(forward + back) / (2 * SHARE_BYTES) * self.constants.word_seconds)

    def answer(self, size_bytes: int) -> Exchange:
        """The server's words of a result."""
        return self.price(Call("server sends", 1)) + self.opened(0, size_bytes)

    def arg_maximum(self, n: int) -> Exchange:
        """The id of the largest of n numbers, by a tournament of pairs in the small ring; `Primitives.arg_maximum` has the same form."""
        total, first = Exchange(), True
        while n > 1:
            pairs = n // 2
            ids = self.price(Call("select", pairs))
            if first:
                # The ids are public at first, so that the bit itself is enough; turning it into a number is a truncation by all bits.
                ids = replace(self.price(Call("truncate", pairs)), **_moved(self.small.bit_to_share(pairs)))
            total += self.price(Call("compare", pairs)) + ids + (self.price(Call("select", pairs)) if n > 2 else Exchange())
            n, first = n - pairs, False
        return total

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


def _without_stocks(exchange: Exchange) -> Exchange:
    """An exchange that fills the stocks which it draws on."""
    return replace(exchange, triples=(), forward_transfers=(), back_transfers=())


def _moved(exchange: Exchange) -> dict[str, Any]:
    """Bytes, messages and transfers of an exchange, as fields."""
    bare = ("forward_bytes", "back_bytes", "forward_messages", "back_messages")
    names = (*bare, "forward_transfers", "back_transfers", "asks", "asked_transfers")
    return {name: getattr(exchange, name) for name in names}


def calls_with(constants: Constants, online: OnlineConstants, settings: ProtocolSettings) -> OnlineCalls:
    """The prices of calls with these constants."""
    return OnlineCalls(Primitives(constants, settings), Primitives(constants, settings, SMALL_RING_BITS), online)
