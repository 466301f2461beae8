"""The price of a plan: every step, summed by operation and by layer, with set-up, memory and time beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from typing import Any, TypeVar

from hushlm.architectures import Architecture
from hushlm.config import ModelShape
from hushlm.cost.constants import CalibratedConstants, load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.network import WAN, Network
from hushlm.cost.primitives import Primitives
from hushlm.cost.programs import overhead_seconds, program_lines
from hushlm.cost.protocol import price_opening, price_operation, price_set_up
from hushlm.plan import (
    HUSH,
    Operation,
    Plan,
    ProtocolSettings,
    Reveal,
    Rewrites,
    Step,
    bucket_length,
    decode_plan,
    prefill_plan,
    server_tensors,
)

__all__ = ["Amount", "CostReport", "GenerationCost", "PricedStep", "price", "price_generation", "price_total"]

PROCESS_BYTES = 350_000_000
"""A party's process with the engine loaded and nothing in it (measured)."""

SHARE_BYTES = 8

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Amount:
    """What some steps cost, in steady state.

    Attributes:
        client_to_server_bytes, server_to_client_bytes: payload of the engine's link; TCP and TLS framing add about 3%.
        messages: of both parties.
        rounds: round trips that have to be waited for.
        cpu_seconds: of both parties together.
        compute_seconds: that pass where no network lies between them, on an idle machine.
        seconds: under the report's network.
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
        """Both directions."""
        return self.client_to_server_bytes + self.server_to_client_bytes

    def to_dict(self) -> dict[str, Any]:
        return {"bytes": self.bytes, **asdict(self)}


@dataclass(frozen=True)
class PricedStep:
    """One step of a plan and its amount; `exchange` is the model's own account of it."""

    step: Step
    amount: Amount
    exchange: Exchange

    @property
    def operation(self) -> str:
        """Kind of operation, in lower case."""
        return type(self.step.operation).__name__.lower()


@dataclass(frozen=True)
class CostReport:
    """What one pass costs.

    Attributes:
        plan: what was priced.
        network: of the seconds.
        steps: in order; opening the answer is part of the last.
        by_operation: sums by kind of operation.
        by_layer: sums by block; None for embedding, final norm, head and answer.
        total: of the pass.
        set_up: what a session moves once, before.
        client_peak_bytes, server_peak_bytes: estimated memory of each process: weights or shares, and the largest step's ciphertexts.
    """

    plan: Plan
    network: Network
    steps: tuple[PricedStep, ...]
    by_operation: dict[str, Amount]
    by_layer: dict[int | None, Amount]
    total: Amount
    set_up: Amount
    client_peak_bytes: int
    server_peak_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "total": self.total.to_dict(),
            "set_up": self.set_up.to_dict(),
            "client_peak_bytes": self.client_peak_bytes,
            "server_peak_bytes": self.server_peak_bytes,
            "by_operation": {name: amount.to_dict() for name, amount in self.by_operation.items()},
            "by_layer": [{"layer": layer, **amount.to_dict()} for layer, amount in self.by_layer.items()],
            "steps": [
                {"name": step.step.name, "layer": step.step.layer, "operation": step.operation, **step.amount.to_dict()}
                for step in self.steps
            ],
        }


@dataclass(frozen=True)
class GenerationCost:
    """What a whole answer costs.

    Attributes:
        passes: the first over the prompt, then one a further token.
        total: of all, set-up left out.
        without_cache: the same tokens with a whole pass for each, as the paper generates.
    """

    passes: tuple[CostReport, ...]
    total: Amount
    without_cache: Amount


def price(
    plan: Plan, settings: ProtocolSettings | None = None, network: Network = WAN, calibrated: CalibratedConstants | None = None
) -> CostReport:
    """Price every step of a plan.

    Args:
        settings: the engine's settings; those of the private program by default.
        network: for the seconds.
        calibrated: fitted constants; the packaged ones by default.
    """
    calibrated = calibrated or load_constants()
    settings = settings or ProtocolSettings()
    steps = []
    for step in plan.steps:
        exchange = _operation_price(step.operation, settings, calibrated)
        steps.append(PricedStep(step, _amount(exchange, network), exchange))
    kinds = _sums(((step.operation, step.exchange) for step in steps), network)
    layers = _sums(((step.step.layer, step.exchange) for step in steps), network)
    total = _total(plan, settings, calibrated)
    weights, shares = _resident(plan)
    return CostReport(
        plan=plan,
        network=network,
        steps=tuple(steps),
        by_operation=kinds,
        by_layer=layers,
        total=_amount(total, network),
        set_up=_amount(price_set_up(settings, calibrated), network),
        client_peak_bytes=PROCESS_BYTES + shares + 2 * total.client_bytes,
        server_peak_bytes=PROCESS_BYTES + shares + weights + 2 * total.server_bytes,
    )


def price_total(
    plan: Plan, settings: ProtocolSettings | None = None, network: Network = WAN, calibrated: CalibratedConstants | None = None
) -> Amount:
    """`price(...).total` and nothing else, for when there are thousands of plans: some tenths of a millisecond each."""
    return _amount(_total(plan, settings or ProtocolSettings(), calibrated or load_constants()), network)


def price_generation(
    architecture: Architecture,
    shape: ModelShape,
    prompt: int,
    new_tokens: int,
    reveal: Reveal | None = None,
    rewrites: Rewrites = HUSH,
    settings: ProtocolSettings | None = None,
    network: Network = WAN,
) -> GenerationCost:
    """Price of answering a prompt with `new_tokens` tokens, with the key-value cache and without.

    Every pass is priced at the length that a session runs it at: `plan.bucket_length` of its tokens.

    Args:
        prompt: tokens of the prompt.
        new_tokens: tokens of the answer.
        reveal: what the client learns of each; the token by default.
        rewrites: how the program is written.
        settings: the engine's settings; the private program's own by default.
        network: the network that the seconds are for.

    Raises:
        ValueError: if prompt and answer do not fit the context.
    """
    if new_tokens < 1:
        raise ValueError(f"{new_tokens} new tokens: ask for at least one.")
    last = prompt + new_tokens - 1
    if last > shape.context:
        raise ValueError(
            f"A prompt of {prompt} tokens and {new_tokens} new ones take {last} places of the context of {shape.context}: shorten one."
        )

    @cache
    def priced(make: Callable[..., Plan], length: int) -> CostReport:
        return price(make(architecture, shape, length, reveal, rewrites), settings, network)

    lengths = [bucket_length(tokens, shape.context) for tokens in range(prompt, last + 1)]
    uncached = [priced(prefill_plan, length) for length in lengths]
    passes = (uncached[0], *(priced(decode_plan, length) for length in lengths[1:]))
    return GenerationCost(passes, _together(report.total for report in passes), _together(report.total for report in uncached))


def _total(plan: Plan, settings: ProtocolSettings, calibrated: CalibratedConstants) -> Exchange:
    """Of all steps; a model has a layer over and over, so that equal operations are priced and added once."""
    parts = (
        _operation_price(operation, settings, calibrated).times(count)
        for operation, count in Counter(step.operation for step in plan.steps).items()
    )
    return sum(parts, Exchange())


def _operation_price(operation: Operation, settings: ProtocolSettings, calibrated: CalibratedConstants) -> Exchange:
    """Of a step, with its share of refills; what opens the answer is part of the last."""
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
        # What stocks it uses up is in its price by now.
        triples=(),
        forward_transfers=(),
        back_transfers=(),
    )


def _amount(exchange: Exchange, network: Network) -> Amount:
    return Amount(
        client_to_server_bytes=round(exchange.forward_bytes),
        server_to_client_bytes=round(exchange.back_bytes),
        messages=round(exchange.forward_messages + exchange.back_messages),
        rounds=round(exchange.rounds, 1),
        cpu_seconds=exchange.cpu_seconds,
        compute_seconds=exchange.compute_seconds,
        seconds=network.seconds(exchange),
    )


def _sums(parts: Iterable[tuple[Key, Exchange]], network: Network) -> dict[Key, Amount]:
    sums: dict[Key, Exchange] = {}
    for key, exchange in parts:
        sums[key] = sums.get(key, Exchange()) + exchange
    return {key: _amount(exchange, network) for key, exchange in sums.items()}


def _together(amounts: Iterable[Amount]) -> Amount:
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
    """Bytes of the server's encoded weights, and of each party's shares of cache and largest values."""
    weights = sum(math.prod(tensor.shape) for step in plan.steps for tensor in server_tensors(plan, step))
    shape = plan.shape
    kept = 2 * shape.layers * plan.keys * shape.width
    largest = max(shape.heads * plan.rows * plan.keys, plan.rows * shape.ffn_width, plan.rows * shape.vocabulary)
    return weights * SHARE_BYTES, (kept + 3 * largest) * SHARE_BYTES
