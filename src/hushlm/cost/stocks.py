"""The stocks of a session, followed call by call: which run is the one that pays for a refill.

A price in the steady state spreads refills evenly over all calls (`Primitives.amortised`). A single small run either pays for a whole
refill or for none. This module says which, so that even the bytes of one run can be predicted.
"""

from __future__ import annotations

from dataclasses import dataclass

from hushlm.cost.exchange import Exchange
from hushlm.cost.primitives import TRANSFER_STOCK, TRIPLE_BATCH, Primitives
from hushlm.plan.engine_tiles import SLOTS

__all__ = ["Due", "Session"]


@dataclass(frozen=True)
class Due:
    """The refills that fall due during some calls.

    Attributes:
        forward_refills: refills of one worker's oblivious transfers with the client as their sender.
        back_refills: refills of one worker's oblivious transfers with the server as their sender.
        triple_batches: batches of product triples.
    """

    forward_refills: int
    back_refills: int
    triple_batches: int

    def exchange(self, primitives: Primitives) -> Exchange:
        """What these refills move."""
        return primitives.refills(self.forward_refills, self.back_refills, self.triple_batches)


class Session:
    """The stocks of one session, as they are after set-up: each worker's oblivious transfers are full, and there are no triples yet.

    Args:
        primitives: the prices of the calls.
    """

    def __init__(self, primitives: Primitives) -> None:
        self.primitives = primitives
        self._forward = [0] * primitives.settings.threads
        self._back = [0] * primitives.settings.threads
        self._triples = 0

    def run(self, bare: Exchange) -> Exchange:
        """The exchange of the calls that come now, with the refills that fall due during them."""
        return bare + self.due(bare).exchange(self.primitives)

    def due(self, bare: Exchange) -> Due:
        """Draw from the stocks what the calls that come now use up, and return the refills that fall due during them."""
        batches = 0
        for needed in bare.triples:
            if self._triples < needed:
                # The engine makes what the call needs, whatever is left over from before.
                made = -(-2 * needed // SLOTS)
                batches += made
                self._triples += made * TRIPLE_BATCH
            self._triples -= needed
        return Due(self._draw(self._forward, bare.forward_transfers), self._draw(self._back, bare.back_transfers), batches)

    @staticmethod
    def _draw(used: list[int], drawn: tuple[int, ...]) -> int:
        refills = 0
        for worker, count in enumerate(drawn):
            before = used[worker] // TRANSFER_STOCK
            used[worker] += count
            refills += used[worker] // TRANSFER_STOCK - before
        return refills
