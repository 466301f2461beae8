"""The price of a plan: of every step, of every kind of operation and of every layer, with set-up, memory and time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

from hushlm.cost.constants import CalibratedConstants, load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.network import WAN, Network
from hushlm.cost.operation_prices import price_opening, price_operation, price_set_up
from hushlm.cost.primitives import Primitives
from hushlm.cost.program_overhead import overhead_seconds, program_lines
from hushlm.plan import (
    Operation,
    Plan,
    ProtocolSettings,
    Reveal,
    Step,
    server_tensors,
)
from hushlm.plan.engine_tiles import SHARE_BYTES
from hushlm.plan.protocol_settings import Transfers

__all__ = [
    "Amount",
    "CostReport",
    "PricedStep",
    "amount_of",
    "amounts_by",
    "amounts_together",
    "pass_report",
    "pass_total",
    "price",
    "price_total",
]

PROCESS_BYTES = 350_000_000
"""The memory of a party's process in which the engine is loaded and holds nothing (measured)."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Amount:
    """What some steps cost in the steady state, which spreads refills of stocks evenly.

    Attributes:
        client_to_server_bytes, server_to_client_bytes: the payload of the engine's link; TCP and TLS framing add about 3%.
        messages: how many messages both parties send.
        rounds: the round trips that the parties have to wait for.
        cpu_seconds: the CPU seconds of both parties together.
        compute_seconds: the seconds that pass on an idle machine with no network between the parties.
        seconds: the seconds that pass over the report's network.
    """

    client_to_server_bytes: int
    server_to_client_bytes: int
    messages: int
    rounds: float
    cpu_seconds: float
    compute_seconds: float
    seconds: float

    @property
    def bytes(self) -> int:
        """The bytes of both directions together."""
        return self.client_to_server_bytes + self.server_to_client_bytes

    def to_dict(self) -> dict[str, Any]:
        """The amount as plain JSON values."""
        return {"bytes": self.bytes, **asdict(self)}


@dataclass(frozen=True)
class PricedStep:
    """One step of a plan and what it costs.

    Attributes:
        step: the step of the plan.
        amount: what it costs, over the report's network.
        exchange: the same in the cost model's own, unrounded numbers.
    """

    step: Step
    amount: Amount
    exchange: Exchange

    @property
    def operation(self) -> str:
        """The kind of the step's operation, in lower case."""
        return type(self.step.operation).__name__.lower()


@dataclass(frozen=True)
class CostReport:
    """What one pass costs.

    Attributes:
        plan: the plan that was priced.
        network: the network that the seconds are for.
        steps: the priced steps in order; opening the answer is part of the last one.
        by_operation: the sum of each kind of operation.
        by_layer: the sum of each block; the key None stands for embedding, final normalisation, head and answer.
        total: the sum of the pass.
        set_up: what a session moves once, before its first pass.
        transfers: how the session makes its oblivious transfers.
        client_peak_bytes, server_peak_bytes: the estimated peak memory of each process, which holds the weights or the shares, and the
            ciphertexts of the largest step.
    """

    plan: Plan
    network: Network
    steps: tuple[PricedStep, ...]
    by_operation: dict[str, Amount]
    by_layer: dict[int | None, Amount]
    total: Amount
    set_up: Amount
    transfers: Transfers
    client_peak_bytes: int
    server_peak_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "total": self.total.to_dict(),
            "set_up": self.set_up.to_dict(),
            "transfers": self.transfers,
            "client_peak_bytes": self.client_peak_bytes,
            "server_peak_bytes": self.server_peak_bytes,
            "by_operation": {name: amount.to_dict() for name, amount in self.by_operation.items()},
            "by_layer": [{"layer": layer, **amount.to_dict()} for layer, amount in self.by_layer.items()],
            "steps": [
                {"name": step.step.name, "layer": step.step.layer, "operation": step.operation, **step.amount.to_dict()}
                for step in self.steps
            ],
        }


def price(
    plan: Plan, settings: ProtocolSettings | None = None, network: Network = WAN, calibrated: CalibratedConstants | None = None
) -> CostReport:
    """Price every step of a plan.

    Args:
        plan: the plan of a pass.
        settings: the engine's settings; those of the private program by default.
        network: the network that the seconds are for.
        calibrated: the fitted constants; those that come with the package by default.
    """
    calibrated = calibrated or load_constants()
    settings = settings or ProtocolSettings()
    exchanges = [_operation_price(step.operation, settings, calibrated) for step in plan.steps]
    total, set_up = pass_total(plan, settings, calibrated), price_set_up(settings, calibrated)
    return pass_report(plan, network, exchanges, total, set_up, settings.transfers)


def pass_report(
    plan: Plan, network: Network, exchanges: Sequence[Exchange], total: Exchange, set_up: Exchange, transfers: Transfers
) -> CostReport:
    """The report of a pass whose steps have these exchanges.

    Args:
        exchanges: of each step of the plan, with its share of refills.
        total: their sum.
        set_up: what a session moves once.
        transfers: how it makes its oblivious transfers.
    """
    steps = [PricedStep(step, amount_of(each, network), each) for step, each in zip(plan.steps, exchanges, strict=True)]
    weights, shares = _resident(plan)
    return CostReport(
        plan=plan,
        network=network,
        steps=tuple(steps),
        by_operation=amounts_by(((step.operation, step.exchange) for step in steps), network),
        by_layer=amounts_by(((step.step.layer, step.exchange) for step in steps), network),
        total=amount_of(total, network),
        set_up=amount_of(set_up, network),
        transfers=transfers,
        client_peak_bytes=PROCESS_BYTES + shares + 2 * total.client_bytes,
        server_peak_bytes=PROCESS_BYTES + shares + weights + 2 * total.server_bytes,
    )


def price_total(
    plan: Plan, settings: ProtocolSettings | None = None, network: Network = WAN, calibrated: CalibratedConstants | None = None
) -> Amount:
    """`price(...).total` and nothing else. It takes less than a millisecond, for callers with thousands of plans."""
    return amount_of(pass_total(plan, settings or ProtocolSettings(), calibrated or load_constants()), network)


def pass_total(plan: Plan, settings: ProtocolSettings, calibrated: CalibratedConstants) -> Exchange:
    """The exchange of all steps of a pass, with its share of refills. A model repeats the same layer, so that equal operations are priced
    once and multiplied."""
    parts = (
        _operation_price(operation, settings, calibrated).times(count)
        for operation, count in Counter(step.operation for step in plan.steps).items()
    )
    return sum(parts, Exchange())


def _operation_price(operation: Operation, settings: ProtocolSettings, calibrated: CalibratedConstants) -> Exchange:
    """The exchange of a step, with its share of refills. Opening the answer is part of the step that reveals it."""
    exchange = _cached_price(operation, Primitives(calibrated.values, settings), Primitives(calibrated.elapsed, settings))
    if isinstance(operation, Reveal):
        exchange += price_opening(operation, settings, calibrated)
    return exchange


@lru_cache(maxsize=16_384)
def _cached_price(operation: Operation, primitives: Primitives, elapsed: Primitives) -> Exchange:
    exchange, timed = (each.amortised(price_operation(operation, each)) for each in (primitives, elapsed))
    lines = program_lines(operation)
    return replace(
        exchange,
        cpu_seconds=exchange.cpu_seconds + overhead_seconds(exchange, lines, primitives.constants),
        compute_seconds=timed.cpu_seconds + overhead_seconds(timed, lines, elapsed.constants),
        # Its price already contains what it draws from the stocks.
        triples=(),
        forward_transfers=(),
        back_transfers=(),
    )


def amount_of(exchange: Exchange, network: Network) -> Amount:
    """An exchange as what it costs over a network."""
    return Amount(
        client_to_server_bytes=round(exchange.forward_bytes),
        server_to_client_bytes=round(exchange.back_bytes),
        messages=round(exchange.forward_messages + exchange.back_messages),
        rounds=round(exchange.rounds, 1),
        cpu_seconds=exchange.cpu_seconds,
        compute_seconds=exchange.compute_seconds,
        seconds=network.seconds(exchange),
    )


def amounts_by(parts: Iterable[tuple[Key, Exchange]], network: Network) -> dict[Key, Amount]:
    """The sums of exchanges that have the same key."""
    sums: dict[Key, Exchange] = {}
    for key, exchange in parts:
        sums[key] = sums.get(key, Exchange()) + exchange
    return {key: amount_of(exchange, network) for key, exchange in sums.items()}


def amounts_together(amounts: Iterable[Amount]) -> Amount:
    """The sum of amounts."""
    counted = list(amounts)
    return Amount(
        client_to_server_bytes=sum(a.client_to_server_bytes for a in counted),
        server_to_client_bytes=sum(a.server_to_client_bytes for a in counted),
        messages=sum(a.messages for a in counted),
        rounds=sum(a.rounds for a in counted),
        cpu_seconds=sum(a.cpu_seconds for a in counted),
        compute_seconds=sum(a.compute_seconds for a in counted),
        seconds=sum(a.seconds for a in counted),
    )


def _resident(plan: Plan) -> tuple[int, int]:
    """The bytes of the server's encoded weights, and of each party's shares of the key-value cache and of the largest values."""
    weights = sum(math.prod(tensor.shape) for step in plan.steps for tensor in server_tensors(plan, step))
    shape = plan.shape
    kept = 2 * shape.layers * plan.keys * shape.key_width
    largest = max(shape.heads * plan.rows * plan.keys, plan.rows * shape.ffn_width, plan.rows * shape.vocabulary)
    return weights * SHARE_BYTES, (kept + 3 * largest) * SHARE_BYTES
