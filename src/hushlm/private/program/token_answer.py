"""What a question brings: each token with what was revealed of it, and what every step moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from hushlm.private.engine.traffic import Traffic

__all__ = ["StepTraffic", "TokenAnswer", "traffic_by"]


@dataclass(frozen=True)
class StepTraffic:
    """What one step of the plan moved at this party; `layer` is None outside the blocks."""

    name: str
    layer: int | None
    traffic: Traffic


@dataclass(frozen=True)
class TokenAnswer:
    """One generated token.

    Attributes:
        token: its id; None at the server.
        top: for "topk", (id, logit) of the largest, best first; None otherwise or at the server.
        logits: for "logits", all of them (V,); None otherwise or at the server.
        traffic: of the pass that made it, reveal included, set-up not.
        steps: the same, step by step.
    """

    token: int | None
    top: list[tuple[int, float]] | None
    logits: np.ndarray | None
    traffic: Traffic
    steps: tuple[StepTraffic, ...] = field(repr=False, default=())


def traffic_by(answers: Iterable[TokenAnswer], key: Callable[[StepTraffic], str]) -> dict[str, Traffic]:
    """What the steps of some answers moved, summed by a key: a step's name, or its layer. What opening the answers moved is in none.

    Args:
        answers: of one question.
        key: of a step.
    """
    sums: dict[str, Traffic] = {}
    for answer in answers:
        for entry in answer.steps:
            sums[key(entry)] = sums.get(key(entry), Traffic()) + entry.traffic
    return sums
