"""What was counted of a prepared pass, beside the formula."""

from __future__ import annotations

from hushlm.cost.constants import load_constants
from hushlm.cost.network import Network
from hushlm.cost.prepared.online_bytes import online_bytes
from hushlm.cost.primitives import Primitives
from hushlm.plan import Plan, ProtocolSettings
from hushlm.private.engine import Traffic

REFILL_BYTES = 900_000
"""A stock of oblivious transfers that runs out is filled up in the middle of a step."""


def equals_formula(plan: Plan, opened: dict[str, int], steps: dict[str, Traffic], network: Network | None) -> int:
    """Assert that the client's traffic of each step, by "LAYER.STEP", is what the formula says; how many steps refilled a stock."""
    prices, refilled = Primitives(load_constants().values, ProtocolSettings()), 0
    for (layer, name), wanted in online_bytes(plan, opened, network=network).items():
        counted, where = steps[f"{layer}.{name}"], (str(plan.architecture), layer, name)
        roots = prices.reciprocal_square_root(wanted.inverse_roots).total_bytes if wanted.inverse_roots else 0.0
        difference = counted.total_bytes - wanted.total - roots
        if difference > REFILL_BYTES:
            refilled += 1
            continue
        if wanted.inverse_roots:
            assert abs(difference) < 0.05 * roots + 200, where
            continue
        assert (counted.sent_messages, counted.received_messages) == (wanted.client_messages, wanted.server_messages), where
        # Calls on a few numbers moved up to some dozens of bytes less than the formula's rounding says (6 row sums: 32 of 3,447).
        messages = counted.sent_messages + counted.received_messages
        assert abs(difference) <= 8 * messages, (*where, counted.total_bytes, wanted)
        if wanted.total > 20_000:
            assert difference == 0, (*where, counted.total_bytes, wanted)
    return refilled
