"""What each operation of a plan moves on the engine "Cheetah (SPU 0.9.5)".

An operation's price is the sum of the calls of primitives that its program in `hushlm.private.program.steps` makes, in the same order.
Nothing here knows an architecture. A new operation without a price fails the type check.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from hushlm.cost.constants import CalibratedConstants, load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.primitives import Primitives
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
    PowerKernel,
    Prepend,
    Project,
    ProtocolSettings,
    Reveal,
    RmsNormalise,
    Rotate,
    ScaleRows,
    Scores,
    Step,
    row_lengths,
)
from hushlm.plan.cuts import Cut
from hushlm.plan.protocol_settings import SET_UP_WIDTH

__all__ = ["StepCost", "price_opening", "price_operation", "price_set_up", "price_step"]


@dataclass(frozen=True)
class StepCost:
    """What one step of a plan moves.

    Attributes:
        step: the step of the plan.
        exchange: what the step moves in the steady state, which includes its share of refills and triple batches.
        bare: the same without that share, which is what most single runs show.
    """

    step: Step
    exchange: Exchange
    bare: Exchange

    @property
    def client_to_server_bytes(self) -> float:
        """The bytes from the client to the server, in the steady state."""
        return self.exchange.forward_bytes

    @property
    def server_to_client_bytes(self) -> float:
        """The bytes from the server to the client, in the steady state."""
        return self.exchange.back_bytes

    @property
    def total_bytes(self) -> float:
        """The bytes of both directions together, in the steady state."""
        return self.exchange.total_bytes


def price_step(step: Step, settings: ProtocolSettings | None = None, calibrated: CalibratedConstants | None = None) -> StepCost:
    """The price of a step.

    Args:
        step: a step of a plan.
        settings: the engine's settings; those of the private program by default.
        calibrated: the fitted constants; those that come with the package by default.
    """
    primitives = _primitives(settings, calibrated)
    bare = price_operation(step.operation, primitives)
    return StepCost(step, primitives.amortised(bare), bare)


def price_set_up(settings: ProtocolSettings | None = None, calibrated: CalibratedConstants | None = None) -> Exchange:
    """What a session moves once, before its first query, with its seconds: workers of oblivious transfers start at once."""
    calibrated, settings = calibrated or load_constants(), settings or ProtocolSettings()
    one = _set_up(Primitives(calibrated.elapsed, replace(settings, threads=1)))
    return replace(_set_up(Primitives(calibrated.values, settings)), compute_seconds=one.cpu_seconds)


def _set_up(p: Primitives) -> Exchange:
    """Keys, first transfers, and the program that brings them about: `PrivateGenerator.set_up`."""
    rows = p.settings.set_up_rows
    n = rows * SET_UP_WIDTH
    products = (p.product_private(rows, SET_UP_WIDTH, SET_UP_WIDTH) + p.truncate(n)).times(2) + p.multiply_private(n) + p.truncate(n)
    program = products + _larger(p, n) + p.truncate(n) + p.exponential(n, p.settings.exponential_squarings)
    # It fills the stocks that it draws on.
    return p.set_up() + p.amortised(replace(program, forward_transfers=(), back_transfers=()))


def price_opening(reveal: Reveal, settings: ProtocolSettings | None = None, calibrated: CalibratedConstants | None = None) -> Exchange:
    """What opening the answer to the client moves: the server's shares of it."""
    primitives = _primitives(settings, calibrated)
    match reveal.kind:
        case "token":
            return primitives.open(1)
        case "topk":
            return primitives.open(reveal.top).times(2)
        case "logits":
            return primitives.open(reveal.vocabulary)
        case _:
            assert_never(reveal.kind)


def _primitives(settings: ProtocolSettings | None, calibrated: CalibratedConstants | None) -> Primitives:
    return Primitives((calibrated or load_constants()).values, settings or ProtocolSettings())


def price_operation(operation: Operation, p: Primitives) -> Exchange:
    """The sum of an operation's calls of primitives, without their share of refills and triple batches."""
    match operation:
        case Embed():
            return _cut_product(p, operation.rows, operation.vocabulary, operation.width, operation.cut)
        case Project():
            return _cut_product(p, operation.rows, operation.inner, operation.outer, operation.cut)
        case Normalise():
            return p.truncate(operation.rows) + _normalised_rows(p, operation) + _affine(p, operation)
        case RmsNormalise():
            return _normalised_rows(p, operation) + _affine(p, operation)
        case ScaleRows():
            n = operation.rows * operation.width
            return p.multiply_private(n) + p.truncate(n)
        case Rotate():
            # The angles are public, so that of the two products of each entry only the truncation moves anything.
            return p.truncate(2 * operation.entries)
        case Prepend():
            return Exchange()
        case Scores(heads, rows, keys, head_width, joined):
            if joined:
                return p.product_shared(heads * rows, heads * head_width, keys) + p.truncate(heads * rows * keys)
            return (p.product_shared(rows, head_width, keys) + p.truncate(rows * keys)).times(heads)
        case Mix(heads, rows, keys, head_width, joined):
            if joined:
                return p.product_shared(heads * rows, keys, heads * head_width) + p.truncate(heads * rows * heads * head_width)
            return (p.product_shared(rows, keys, head_width) + p.truncate(rows * head_width)).times(heads)
        case Kernel():
            return _kernel(p, operation)
        case PowerKernel():
            # Masks, roots and the floor are public. The engine's exponential takes products with the roots, which are truncated first.
            many = _whole(operation) if operation.exponentials == 1 else 0
            return (p.truncate(many) if many else Exchange()) + _powers(p, operation)
        case Divide():
            n = operation.heads * operation.rows
            inverse = _reciprocal(p, n, operation.limits) if operation.polynomial else p.reciprocal(n)
            return inverse + _scaled_rows(p, n, operation.width, operation.block)
        case Activate():
            return _activate(p, operation)
        case Gate():
            return _product(p, operation.rows * operation.width)
        case ActivatedGate():
            return _activated_gate(p, operation)
        case Reveal():
            return _reveal(p, operation)
        case _:
            assert_never(operation)


def _product(p: Primitives, n: int) -> Exchange:
    """The fixed-point product of two secrets."""
    return p.multiply(n) + p.truncate(n)


def _larger(p: Primitives, n: int) -> Exchange:
    """The larger of two secrets, or a choice between them by a secret sign."""
    return p.compare(n) + p.select(n)


def _cut_product(p: Primitives, rows: int, inner: int, outer: int, cut: Cut) -> Exchange:
    """A product with a server's matrix, cut into parts, each of which is truncated before they are added."""

    def row_block(size: int) -> Exchange:
        parts = [p.product_private(size, min(cut.columns, inner - start), outer) for start in range(0, inner, cut.columns)]
        return sum(parts, Exchange()) + p.truncate(size * outer).times(len(parts))

    whole, rest = divmod(rows, cut.rows)
    total = row_block(cut.rows).times(whole)
    return total + row_block(rest) if rest else total


def _blocks(rows: int, block: int) -> list[int]:
    return [min(block, rows - start) for start in range(0, rows, block)]


def _scaled_rows(p: Primitives, rows: int, width: int, block: int) -> Exchange:
    """Every row times a number of its own, by products with diagonal matrices, or of numbers where `block` is 0."""
    if not block:
        return _product(p, rows * width)
    return sum((p.product_shared(b, b, width) + p.truncate(b * width) for b in _blocks(rows, block)), Exchange())


def _squared_lengths(p: Primitives, rows: int, width: int, block: int) -> Exchange:
    """The sum of the squares of every row, by products of matrices, or of numbers where `block` is 0."""
    if not block:
        return _product(p, rows * width)
    return sum((p.product_shared(b, width, b) + p.truncate(b * b) for b in _blocks(rows, block)), Exchange())


def _reciprocal(p: Primitives, n: int, limits: int) -> Exchange:
    """1/x: comparisons with powers of two, a selection by them of x and another of the result, and a polynomial of three products."""
    products = _product(p, n).times(3) + p.truncate(n).times(3)
    if not limits:
        return products
    return p.compare(limits * n) + p.select(limits * n).times(2) + products + p.truncate(n)


def _squares(p: Primitives, n: int, built_in: bool) -> Exchange:
    """Squares of n numbers; the built-in ones are computed inside an exponential of one squaring."""
    return p.exponential(n, 1) if built_in else _product(p, n)


def _normalised_rows(p: Primitives, operation: Normalise | RmsNormalise) -> Exchange:
    rows, width = operation.rows, operation.width
    mean_square = p.truncate(rows) + _squared_lengths(p, rows, width, operation.squares_block)
    return mean_square + p.reciprocal_square_root(rows) + _scaled_rows(p, rows, width, operation.scaling_block)


def _affine(p: Primitives, operation: Normalise | RmsNormalise) -> Exchange:
    n = operation.rows * operation.width
    return p.multiply_private(n) + p.truncate(n) if operation.affine else Exchange()


def _kernel(p: Primitives, operation: Kernel) -> Exchange:
    """The maxima of all rows in one tournament, the clip and the exponential. Masks are public and cost nothing."""
    lengths, total = row_lengths(operation), Exchange()
    while any(length > 1 for length in lengths):
        total += _larger(p, operation.heads * sum(length // 2 for length in lengths))
        lengths = [length - length // 2 for length in lengths]
    return total + _larger(p, operation.elements) + _powers(p, operation)


def _whole(operation: Kernel | PowerKernel) -> int:
    """How many scores are raised to the power by the engine's own squares."""
    return operation.elements - operation.written_out


def _powers(p: Primitives, operation: Kernel | PowerKernel) -> Exchange:
    """(1 + z/2^n)^(2^n) of all scores."""
    few, squarings, total = operation.written_out, operation.squarings, Exchange()
    if many := _whole(operation):
        by_one = p.truncate(many) + _squares(p, many, True).times(squarings)
        total += p.exponential(many, squarings) if operation.exponentials == 1 else by_one
    return total + p.truncate(few) + _squares(p, few, False).times(squarings) if few else total


def _activate(p: Primitives, operation: Activate) -> Exchange:
    n = operation.rows * operation.width
    match operation.kind:
        case "relu":
            return _larger(p, n)
        case "squared-relu":
            return _larger(p, n) + _squares(p, n, operation.built_in_squares)
        case "polynomial":
            return _larger(p, n).times(2) + _squares(p, n, operation.built_in_squares) + p.truncate(n)
        case "square":
            return _squares(p, n, operation.built_in_squares)
        case "gelu-quartic":
            return _larger(p, n).times(2) + _squares(p, n, operation.built_in_squares).times(2) + p.truncate(n)
        case "gelu-tanh":
            return p.hyperbolic_tangent(n) + p.multiply(n).times(3) + p.truncate(n).times(6)
        case _:
            assert_never(operation.kind)


def _activated_gate(p: Primitives, operation: ActivatedGate) -> Exchange:
    n = operation.rows * operation.width
    match operation.kind:
        case "silu-tanh":
            return p.hyperbolic_tangent(n) + p.truncate(n) + _product(p, n).times(2)
        case "silu-quartic":
            squares = 2
        case "silu-quadratic":
            squares = 1
        case _:
            assert_never(operation.kind)
    return _larger(p, n).times(2) + _squares(p, n, operation.built_in_squares).times(squares) + p.truncate(n) + _product(p, n)


def _reveal(p: Primitives, operation: Reveal) -> Exchange:
    n = operation.vocabulary
    match operation.kind:
        case "logits":
            return Exchange()
        case "token":
            return p.arg_maximum(n, with_value=False)
        case "topk":
            # Each winner is struck out of the list before the next round: its id is the one at distance 0.
            strike = _product(p, n) + _larger(p, n)
            return p.arg_maximum(n, with_value=True).times(operation.top) + strike.times(operation.top - 1)
        case _:
            assert_never(operation.kind)
