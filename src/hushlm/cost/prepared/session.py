"""What a session has to have ready before it answers from prepared material: how many threads, and whether keys for products.

Both parties decide from public sizes alone, and so alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from hushlm.architectures import Architecture
from hushlm.config import ModelShape
from hushlm.cost.network import Network
from hushlm.cost.prepared.online_bytes import left_root, online_calls
from hushlm.plan import (
    Divide,
    Normalise,
    Operation,
    Plan,
    Reveal,
    Rewrites,
    RmsNormalise,
    bucket_length,
    decode_plan,
    prefill_plan,
)
from hushlm.plan.needs import is_prepared

__all__ = ["answer_plans", "answer_threads", "multiplies_by_engine"]

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
    first = next(iter(plans))
    compared = 0
    for operation, times in Counter(step.operation for step in first.steps).items():
        if is_prepared(operation) and not isinstance(operation, Reveal):
            compared += times * sum(call.elements for call in online_calls(operation, network) if call.kind == "compare")
    return threads if compared > COMPARED_BY_ONE_THREAD else 1


def multiplies_by_engine(plans: Iterable[Plan], network: Network | None = None) -> bool:
    """Whether the engine multiplies anything in these passes: inverse roots of its own, and what has no prepared form."""
    return any(_multiplies(operation, network) for operation in {step.operation for plan in plans for step in plan.steps})


def _multiplies(operation: Operation, network: Network | None) -> bool:
    if not is_prepared(operation):
        return True
    if isinstance(operation, Divide):
        return not operation.polynomial
    return isinstance(operation, Normalise | RmsNormalise) and left_root(operation, network)
