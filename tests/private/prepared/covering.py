"""Which architectures two parties run in tests: enough that every operation follows each one that it follows anywhere in the registry."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hushlm.architectures import REGISTRY, Architecture
from hushlm.config import ModelShape
from hushlm.plan import bucket_length, decode_plan, prefill_plan
from hushlm.plan.operations import Operation

__all__ = ["covering_architectures", "deep_enough"]


def deep_enough(architecture: Architecture, shape: ModelShape) -> ModelShape:
    """The shape, with as many layers as the name needs."""
    return replace(shape, layers=max(shape.layers, architecture.removed_ffns))


def covering_architectures(shape: ModelShape) -> list[Architecture]:
    """Greedily few; each pair of neighbouring operations of every prefill and every further token is in one of them."""
    pairs = {each: _neighbours(each, deep_enough(each, shape)) for each in REGISTRY}
    left, chosen = set[tuple[str, Operation, Operation]]().union(*pairs.values()), list[Architecture]()
    while left:
        best = max(REGISTRY, key=lambda each: len(left & pairs[each]))
        chosen.append(best)
        left -= pairs[best]
    return chosen


def _neighbours(architecture: Architecture, shape: ModelShape) -> set[tuple[str, Operation, Operation]]:
    tokens = bucket_length(shape.context - 1, shape.context)
    plans = {"prefill": prefill_plan(architecture, shape, tokens), "decode": decode_plan(architecture, shape, tokens)}
    operations = {name: [step.operation for step in plan.steps] for name, plan in plans.items()}
    return {(name, *pair) for name, each in operations.items() for pair in itertools.pairwise(each)}
