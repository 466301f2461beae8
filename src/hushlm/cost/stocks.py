"""The stocks of a session, followed call by call: which run is the one that pays for a refill.

The steady state spreads refills evenly (`Primitives.amortised`). A single small run either pays for a whole refill or for none;
this says which, so that even the bytes of one run are predicted.
"""

from __future__ import annotations

from hushlm.cost.exchange import Exchange
from hushlm.cost.primitives import TRANSFER_STOCK, TRIPLE_BATCH, Primitives
from hushlm.plan.engine_tiles import SLOTS

__all__ = ["Session"]


class Session:
    """Stocks of oblivious transfers by worker and sender, and of triples; full and empty, respectively, after set-up.

    Args:
        primitives: prices.
    """

    def __init__(self, primitives: Primitives) -> None:
        self.primitives = primitives
        self._forward = [0] * primitives.settings.threads
        self._back = [0] * primitives.settings.threads
        self._triples = 0

    def run(self, bare: Exchange) -> Exchange:
        """The exchange of calls as they come now, with the refills that fall due."""
        forward = self._draw(self._forward, bare.forward_transfers)
        back = self._draw(self._back, bare.back_transfers)
        batches = 0
        for needed in bare.triples:
            if self._triples < needed:
                # The engine makes what the call needs, whatever is left over from before.
                made = -(-2 * needed // SLOTS)
                batches += made
                self._triples += made * TRIPLE_BATCH
            self._triples -= needed
        return bare + self.primitives.refills(forward, back, batches)

    @staticmethod
    def _draw(used: list[int], drawn: tuple[int, ...]) -> int:
        refills = 0
        for worker, count in enumerate(drawn):
            before = used[worker] // TRANSFER_STOCK
            used[worker] += count
            refills += used[worker] // TRANSFER_STOCK - before
        return refills
