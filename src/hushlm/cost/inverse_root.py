"""How a prepared answer takes the inverse root of each row's mean square, and which form suits a network.

The engine's own program moves the fewest bytes and waits for some thirty round trips. The other form compares each number with all
`ROOT_LIMITS` in one call, and takes a cubic polynomial of its own between any two of them.
"""

from __future__ import annotations

from hushlm.cost.calls import Call, CallPrice, call_seconds
from hushlm.cost.network import Network
from hushlm.plan import ROOT_LIMITS, ROOT_LOW_LIMITS, Normalise, RmsNormalise

__all__ = ["ENGINE_ROOT", "root_calls", "root_in_pieces"]

ENGINE_ROOT = CallPrice(1162.0, 30.2, 1e-4)
"""The engine's program, without the truncation before it; `python benchmarks/prepared_rounds.py --relay` times its round trips."""

PROGRAM_SECONDS = 3e-3
"""Rough, of running one more compiled program, whatever it does."""


def root_calls(rows: int) -> list[Call]:
    """The calls of the form in pieces, from squared lengths with twice the fraction bits on."""
    bits = [Call("compare", len(ROOT_LIMITS) * rows), Call("and", ROOT_LOW_LIMITS * rows), Call("select-64", len(ROOT_LIMITS) * rows)]
    scaled = [Call("truncate", rows), Call("open", 1), Call("truncate", rows), Call("truncate", rows)]
    return [*bits, *scaled, Call("open", 1), Call("truncate", 2 * rows), Call("open", 1), Call("truncate", rows)]


def root_in_pieces(operation: Normalise | RmsNormalise, network: Network | None) -> bool:
    """Whether an answer over this network takes the form in pieces; the same at both parties, being a function of public sizes alone."""
    if network is None or operation.affine:
        return False
    rows, calls = operation.rows, root_calls(operation.rows)
    each = 8 * ENGINE_ROOT.bytes / network.bits_per_second + ENGINE_ROOT.seconds
    engine_seconds = call_seconds([Call("truncate", rows)], network) + ENGINE_ROOT.rounds * network.round_trip_seconds + rows * each
    # The comparison and what follows in the small ring are one program, and every other call is one of its own.
    programs = sum(call.kind not in ("open", "and") for call in calls)
    return call_seconds(calls, network) + (programs - 2) * PROGRAM_SECONDS < engine_seconds
