"""What each operation's online form moves and takes: the calls that `hushlm.private.prepared.online` makes, in the same order."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import assert_never

from hushlm.cost.exchange import Exchange
from hushlm.cost.operation_prices import price_operation
from hushlm.cost.prepared.calls import OnlineCalls
from hushlm.cost.prepared.online_bytes import opened_bytes
from hushlm.plan import (
    Activate,
    ActivatedGate,
    Divide,
    Embed,
    Gate,
    Kernel,
    Mix,
    Normalise,
    Operation,
    Plan,
    Prepend,
    Project,
    Reveal,
    RmsNormalise,
    Rotate,
    ScaleRows,
    Scores,
    Step,
    halvings,
    row_lengths,
)
from hushlm.plan.engine_tiles import SHARE_BYTES
from hushlm.plan.needs import AttendNeed, Need, is_prepared, pass_needs
from hushlm.plan.protocol_settings import SMALL_RING_BITS

__all__ = ["online_exchange", "online_steps"]


def online_steps(plan: Plan, opened: MutableMapping[str, int], p: OnlineCalls) -> list[tuple[Step, Exchange]]:
    """Each step of a pass, without its share of refills and triple batches. Opening the answer is part of the step that reveals it.

    Args:
        opened: rows of each cache that earlier passes of the answer opened, brought up to date; as `pass_needs` takes it.
    """
    return [(step, online_exchange(step.operation, needs, p)) for step, needs in pass_needs(plan, opened)]


def online_exchange(operation: Operation, needs: Sequence[Need], p: OnlineCalls) -> Exchange:
    """The sum of the calls of one operation with these needs."""
    if not is_prepared(operation):
        return p.program() + price_operation(operation, p.large) + _answer(operation, p)
    match operation:
        case Embed(rows, vocabulary, width):
            sent = p.send(rows * vocabulary * SMALL_RING_BITS // 8)
            return sent + p.weight_product(rows, vocabulary, width, SMALL_RING_BITS) + p.widen(rows * width)
        case Normalise(rows, width) | RmsNormalise(rows, width):
            mean = p.truncate(rows) if isinstance(operation, Normalise) else Exchange()
            root = p.program() + p.large.truncate(rows) + p.large.reciprocal_square_root(rows)
            return mean + p.truncate(rows) + p.open(rows * width) + root + p.open(rows) + p.truncate(rows * width)
        case Project(rows, inner, outer):
            return p.send(rows * inner * SHARE_BYTES) + p.weight_product(rows, inner, outer) + p.truncate(rows * outer)
        case ScaleRows(rows, width):
            (need,) = needs
            forward, back = opened_bytes(need)
            return p.send(forward) + p.send(back, forward=False) + p.truncate(rows * width)
        case Rotate():
            return p.truncate(operation.entries)
        case Prepend():
            return Exchange()
        case Scores() | Mix():
            return _attend(operation, needs, p)
        case Kernel(heads):
            scores = operation.elements
            powers = p.program() + p.maxima(row_lengths(operation), heads) + p.larger(scores)
            return powers + p.widen(scores, operation.squarings) + _squares(p, scores, operation.squarings)
        case Divide():
            return _divide(operation, p)
        case Activate():
            return _activate(operation, p)
        case Gate(rows, width):
            return _product(p, rows * width)
        case ActivatedGate():
            return _activated_gate(operation, p)
        case Reveal(vocabulary, kind):
            found = p.program() + p.arg_maximum(vocabulary) if kind == "token" else Exchange()
            return found + _answer(operation, p)
        case _:
            assert_never(operation)


def _answer(operation: Operation, p: OnlineCalls) -> Exchange:
    """The server's words of what is revealed."""
    if not isinstance(operation, Reveal):
        return Exchange()
    match operation.kind:
        case "token":
            return p.send(SMALL_RING_BITS // 8, forward=False)
        case "topk":
            return p.send(operation.top * SHARE_BYTES, forward=False).times(2)
        case "logits":
            return p.send(operation.vocabulary * SHARE_BYTES, forward=False)
        case _:
            assert_never(operation.kind)


def _squares(p: OnlineCalls, n: int, times: int = 1) -> Exchange:
    return (p.open(n) + p.truncate(n)).times(times)


def _product(p: OnlineCalls, n: int) -> Exchange:
    return p.open(2 * n) + p.truncate(n)


def _attend(operation: Scores | Mix, needs: Sequence[Need], p: OnlineCalls) -> Exchange:
    (need,) = needs
    assert isinstance(need, AttendNeed)
    heads, rows, keys, width = operation.heads, operation.rows, operation.keys, operation.head_width
    opened = p.open(opened_bytes(need)[0] // SHARE_BYTES)
    if need.side == "values":
        return opened + p.full_products(rows, need.opened, width, 2 * heads) + p.truncate(heads * rows * width)
    # What a causal mask hides is not truncated.
    kept = rows * (rows + 1) // 2 if need.triangle else rows * keys
    return opened + p.full_products(rows, width, need.opened, 2 * heads) + p.truncate(heads * kept)


def _divide(operation: Divide, p: OnlineCalls) -> Exchange:
    """The reciprocals of row sums, and each row times its own."""
    sums, steps = operation.heads * operation.rows, halvings(operation.largest)
    if operation.polynomial:
        polynomial = p.truncate(sums) + _squares(p, sums) + _product(p, sums) + p.truncate(2 * sums) + _product(p, sums)
        powers = p.program() + p.compare(steps * sums) + p.where(steps * sums).times(2) + p.divide(sums, steps) if steps else Exchange()
        inverse = polynomial + powers
    else:
        inverse = p.program() + p.large.reciprocal(sums)
    return inverse + p.open(sums * operation.width + sums) + p.truncate(sums * operation.width)


def _activate(operation: Activate, p: OnlineCalls) -> Exchange:
    n = operation.rows * operation.width
    match operation.kind:
        case "relu":
            return p.program() + p.compare(n) + p.where(n)
        case "squared-relu":
            return p.program() + p.compare(n) + p.where(n) + _squares(p, n)
        case "square":
            return _squares(p, n)
        case "polynomial":
            return p.program() + p.compare(n).times(2) + p.where(n).times(2) + _squares(p, n) + p.truncate(n)
        case "gelu-quartic":
            return _clipped(p, n) + _squares(p, n, 2) + p.truncate(n)
        case "gelu-tanh":
            raise AssertionError("GELU by tanh has no prepared form")
        case _:
            assert_never(operation.kind)


def _activated_gate(operation: ActivatedGate, p: OnlineCalls) -> Exchange:
    n = operation.rows * operation.width
    squares = {"silu-quadratic": 1, "silu-quartic": 2}[operation.kind]
    return _clipped(p, n) + _squares(p, n, squares) + p.truncate(n) + _product(p, n)


def _clipped(p: OnlineCalls, n: int) -> Exchange:
    """The size of n numbers, and the size clipped at a bound."""
    return p.program() + p.compare(n).times(2) + p.select(n) + p.where(n).times(2)
