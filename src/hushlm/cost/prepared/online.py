"""What each operation's online form moves and takes: the calls that `hushlm.cost.prepared.online_bytes` lists, and what is local."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from itertools import groupby
from typing import assert_never

from hushlm.cost.exchange import Exchange
from hushlm.cost.network import Network
from hushlm.cost.operation_prices import price_operation
from hushlm.cost.prepared.calls import OnlineCalls
from hushlm.cost.prepared.online_bytes import left_root, online_calls, opened_bytes, opened_needs
from hushlm.plan import Divide, Normalise, Operation, Plan, Reveal, RmsNormalise, Step
from hushlm.plan.engine_tiles import SHARE_BYTES
from hushlm.plan.needs import AttendNeed, LookUpNeed, Need, ProjectNeed, is_prepared, pass_needs
from hushlm.plan.protocol_settings import SMALL_RING_BITS

__all__ = ["online_exchange", "online_steps"]


def online_steps(
    plan: Plan, opened: MutableMapping[str, int], p: OnlineCalls, network: Network | None = None
) -> list[tuple[Step, Exchange]]:
    """Each step of a pass, without its share of refills and triple batches. Opening the answer is part of the step that reveals it.

    Args:
        opened: rows of each cache that earlier passes of the answer opened, brought up to date; as `pass_needs` takes it.
        network: by which forms are chosen; without one the largest are found in pairs.
    """
    return [(step, online_exchange(step.operation, needs, p, network)) for step, needs in pass_needs(plan, opened)]


def online_exchange(operation: Operation, needs: Sequence[Need], p: OnlineCalls, network: Network | None = None) -> Exchange:
    """What one operation with these needs moves and takes."""
    if not is_prepared(operation):
        return p.program() + price_operation(operation, p.large) + _answer(operation, p)
    if isinstance(operation, Reveal) and operation.kind == "token" and network is None and operation.rows == 1:
        return p.program() + p.arg_maximum(operation.vocabulary) + _answer(operation, p)
    calls = online_calls(operation, network, p.fraction_bits)
    total = _answer(operation, p)
    if isinstance(operation, Divide) and not operation.polynomial:
        # The engine's own reciprocal, and the product with it.
        calls, total = calls[-2:], p.program() + p.large.reciprocal(operation.heads * operation.rows)
    total = sum(map(p.price, calls), total)
    # Calls in the small ring that follow one another are one program; every other call of the engine is one of its own.
    kinds = [call.kind for call in calls if call.kind not in ("open", "client sends", "server sends")]
    runs = [(small, len(list(group))) for small, group in groupby(kind not in ("truncate", "select-64") for kind in kinds)]
    total += p.program().times(sum(1 if small else count for small, count in runs))
    for need in opened_needs(operation, needs, network):
        total += p.opened(*opened_bytes(need)) + _local_product(need, p)
    if isinstance(operation, Normalise | RmsNormalise) and left_root(operation, network):
        total += p.program() + p.large.truncate(operation.rows) + p.large.reciprocal_square_root(operation.rows)
    return total


def _local_product(need: Need, p: OnlineCalls) -> Exchange:
    """What the parties multiply by themselves; products of single numbers take next to nothing."""
    match need:
        case ProjectNeed(_, rows, inner, outer, ring_bits):
            return p.weight_product(rows, inner, outer, ring_bits)
        case LookUpNeed(_, rows, _, width):
            dealt = need.dealt
            slots = p.weight_product(dealt.slots, dealt.columns, width, SMALL_RING_BITS).times(dealt.count)
            return slots + p.weight_product(rows, dealt.places, width, SMALL_RING_BITS)
        case AttendNeed(_, side, heads, rows, width):
            inner, outer = (width, need.opened) if side == "keys" else (need.opened, width)
            return p.full_products(rows, inner, outer, 2 * heads)
        case _:
            return Exchange()


def _answer(operation: Operation, p: OnlineCalls) -> Exchange:
    """The server's words of what is revealed."""
    if not isinstance(operation, Reveal):
        return Exchange()
    match operation.kind:
        case "token":
            return p.answer(operation.rows * SMALL_RING_BITS // 8)
        case "topk":
            return p.answer(operation.top * SHARE_BYTES).times(2)
        case "logits":
            return p.answer(operation.rows * operation.vocabulary * SHARE_BYTES)
        case _:
            assert_never(operation.kind)
