"""What was counted of a prepared pass, beside the formula."""

from __future__ import annotations

from hushlm.cost.constants import load_constants
from hushlm.cost.network import Network
from hushlm.cost.prepared.online_bytes import online_bytes
from hushlm.cost.primitives import Primitives
from hushlm.plan import Plan, ProtocolSettings
from hushlm.private.engine import Traffic

REFILL_BYTES, REFILL_MESSAGES = round(load_constants().values.refill), 2
"""A stock of oblivious transfers that runs out is filled up in the middle of a step, that of each direction and each ring by itself."""

CIPHERTEXT_NOISE = 0.005
"""A ciphertext's size varies with its random content, see `tests.cost.test_predicted`."""


def equals_formula(plan: Plan, opened: dict[str, int], steps: dict[str, Traffic], network: Network | None) -> int:
    """Assert that the client's traffic of each step, by "LAYER.STEP", is what the formula says; how often a stock was refilled."""
    prices, refilled = Primitives(load_constants().values, ProtocolSettings()), 0
    for (layer, name), wanted in online_bytes(plan, opened, network=network).items():
        counted, where = steps[f"{layer}.{name}"], (str(plan.architecture), layer, name)
        roots = prices.reciprocal_square_root(wanted.inverse_roots).total_bytes if wanted.inverse_roots else 0.0
        difference = counted.total_bytes - wanted.total - roots
        if wanted.inverse_roots:
            # The engine's own program may also make a batch of product triples.
            batch = prices.triple_batch().total_bytes
            without = min(difference, difference - batch, key=lambda rest: abs(rest - round(rest / REFILL_BYTES) * REFILL_BYTES))
            noise, difference = (CIPHERTEXT_NOISE * batch if without < difference else 0), without
        refills = round(difference / REFILL_BYTES)
        assert refills >= 0, where
        difference -= refills * REFILL_BYTES
        refilled += refills
        if wanted.inverse_roots:
            assert abs(difference) < 0.05 * roots + 200 + noise, where
            continue
        # Whoever extends the transfers sends both messages of a refill.
        more = (counted.sent_messages - wanted.client_messages, counted.received_messages - wanted.server_messages)
        assert all(each % REFILL_MESSAGES == 0 and each >= 0 for each in more), (*where, more)
        assert sum(more) == REFILL_MESSAGES * refills, (*where, more)
        # Calls on a few numbers moved up to some dozens of bytes less than the formula's rounding says (6 row sums: 32 of 3,447).
        messages = counted.sent_messages + counted.received_messages
        assert abs(difference) <= 8 * messages, (*where, counted.total_bytes, wanted)
        if wanted.total > 20_000:
            assert difference == 0, (*where, counted.total_bytes, wanted)
    return refilled
