"""What a session has to have ready before it answers: how many threads, what kind of oblivious transfers, whether keys for products.

Both parties decide from public sizes alone, and so alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import get_args

from hushlm.architectures import Architecture
from hushlm.config import ModelShape
from hushlm.cost.constants import load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.network import LOOPBACK, WAN, Network
from hushlm.cost.operation_prices import price_set_up
from hushlm.cost.prepared.calls import OnlineCalls, calls_with
from hushlm.cost.prepared.online import online_exchange
from hushlm.cost.prepared.online_bytes import left_root, online_calls
from hushlm.cost.prepared.online_constants import load_online_constants
from hushlm.cost.pricing import pass_total
from hushlm.cost.primitives import Primitives
from hushlm.cost.transfers import BATCH, BATCH_BYTES
from hushlm.plan import (
    Divide,
    Normalise,
    Operation,
    Plan,
    ProtocolSettings,
    Reveal,
    Rewrites,
    RmsNormalise,
    bucket_length,
    decode_plan,
    prefill_plan,
)
from hushlm.plan.needs import is_prepared
from hushlm.plan.protocol_settings import SMALL_RING_BITS, Transfers

__all__ = ["answer_plans", "answer_set_up", "answer_threads", "multiplies_by_engine", "session_settings", "session_transfers"]

COMPARED_BY_ONE_THREAD = 1_000_000
"""Numbers that one thread compares about as soon as two, of which each makes stocks of oblivious transfers first. Measured: four stocks for
one more thread took 2.4 s of a processor of each party, and a comparison takes 4.5 microseconds of it."""


@lru_cache(maxsize=16)  # an answer is priced for several networks
def answer_plans(
    architecture: Architecture, shape: ModelShape, prompt: int, new_tokens: int, reveal: Reveal | None, rewrites: Rewrites, draft: int = 0
) -> tuple[Plan, ...]:
    """The passes of an answer, each at the length at which a session runs it; equal passes are one object.

    Args:
        draft: how many tokens each further pass guesses; all guesses are taken to be wrong.
    """
    lengths = [bucket_length(prompt + (index + draft if index else 0), shape.context) for index in range(new_tokens)]
    further = {keys: decode_plan(architecture, shape, keys, reveal, rewrites, draft + 1) for keys in dict.fromkeys(lengths[1:])}
    return (prefill_plan(architecture, shape, lengths[0], reveal, rewrites), *(further[keys] for keys in lengths[1:]))


def answer_threads(plans: Iterable[Plan], threads: int, network: Network | None = None) -> int:
    """How many of the engine's threads an answer with these passes is worth: all of `threads`, or one where little is compared."""
    return threads if _compared(next(iter(plans)), network) > COMPARED_BY_ONE_THREAD else 1


def _compared(plan: Plan, network: Network | None) -> int:
    """How many numbers a pass from prepared material compares, without the choice of its token."""
    compared = 0
    for operation, times in Counter(step.operation for step in plan.steps).items():
        if is_prepared(operation) and not isinstance(operation, Reveal):
            compared += times * sum(call.elements for call in online_calls(operation, network) if call.kind == "compare")
    return compared


def multiplies_by_engine(plans: Iterable[Plan], network: Network | None = None) -> bool:
    """Whether the engine multiplies anything in these passes: inverse roots of its own, and what has no prepared form."""
    return any(_multiplies(operation, network) for operation in {step.operation for plan in plans for step in plan.steps})


def _multiplies(operation: Operation, network: Network | None) -> bool:
    if not is_prepared(operation):
        return True
    if isinstance(operation, Divide):
        return not operation.polynomial
    return isinstance(operation, Normalise | RmsNormalise) and left_root(operation, network)


def answer_set_up(products: bool, settings: ProtocolSettings) -> Exchange:
    """What a session that answers from prepared material moves once, with its seconds: workers of oblivious transfers start at once."""
    online, moved = load_online_constants(), load_constants()
    elapsed = calls_with(moved.elapsed, online.elapsed, replace(settings, threads=1)).set_up_answer(products)
    return replace(calls_with(moved.values, online.values, settings).set_up_answer(products), compute_seconds=elapsed.cpu_seconds)


def session_settings(
    plans: Sequence[Plan], settings: ProtocolSettings, network: Network | None = None, prepared: bool = False, near: bool = False
) -> ProtocolSettings:
    """The engine's settings of a session with these passes: its threads, and its kind of oblivious transfers.

    Args:
        plans: the passes of the answer, without guesses.
        settings: the program's, with as many threads as the session may have.
        network: between the parties, as the client names it.
        prepared: whether the answer uses material that was prepared before.
        near: whether both parties are on one machine, as far as the server's address says.
    """
    if prepared:
        settings = replace(settings, threads=answer_threads(plans, settings.threads, network))
    return replace(settings, transfers=session_transfers(plans, settings, network, prepared, near))


def session_transfers(
    plans: Sequence[Plan], settings: ProtocolSettings, network: Network | None = None, prepared: bool = False, near: bool = False
) -> Transfers:
    """The kind of oblivious transfers with which a session's set-up and its answer are predicted to take fewer seconds together.

    Where no network is named, over loopback if both parties are on one machine, and else over a wide-area network. The arguments are those
    of `session_settings`; the threads are the session's own.
    """
    over, products = network or (LOOPBACK if near else WAN), prepared and multiplies_by_engine(plans, network)
    if prepared:
        # Most models compare so much that the bytes of asking alone take longer than stocks: nothing else needs to be priced.
        asked = Primitives(load_constants().elapsed, replace(settings, transfers="softspoken"), SMALL_RING_BITS).compare(1).asked_transfers
        stocks = over.seconds(answer_set_up(products, replace(settings, transfers="ferret")))
        if over.seconds_of(_compared(plans[0], network) * asked * BATCH_BYTES / BATCH, 0.0, 0.0) > stocks:
            return "ferret"
    seconds = dict[Transfers, float]()
    kinds: tuple[Transfers, ...] = get_args(Transfers)
    for kind in kinds:
        tried = replace(settings, transfers=kind)
        if prepared:
            online = calls_with(load_constants().elapsed, load_online_constants().elapsed, tried)
            parts = (_answered(operation, online, network).times(times) for operation, times in _operations(plans).items())
            total = sum(parts, answer_set_up(products, tried))
        else:
            total = sum((pass_total(plan, tried, load_constants()) for plan in plans), price_set_up(tried))
        seconds[kind] = over.seconds(total)
    return min(kinds, key=seconds.__getitem__)


def _operations(plans: Sequence[Plan]) -> Counter[Operation]:
    """How often each operation occurs in these passes, of which equal ones are one object."""
    found = Counter[Operation]()
    passes = Counter(map(id, plans))
    for plan in {id(plan): plan for plan in plans}.values():
        for operation, times in Counter(step.operation for step in plan.steps).items():
            found[operation] += times * passes[id(plan)]
    return found


@lru_cache(maxsize=4096)
def _answered(operation: Operation, online: OnlineCalls, network: Network | None) -> Exchange:
    """An operation's calls of the engine; words that the parties send each other do not depend on the kind of transfers."""
    exchange = online.amortised(online_exchange(operation, (), online, network))
    return replace(exchange, compute_seconds=exchange.cpu_seconds, triples=(), forward_transfers=(), back_transfers=())
