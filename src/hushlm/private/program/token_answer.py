"""The answer to a question: each token with what was revealed of it, and what every step moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from hushlm.private.engine.traffic import Traffic

__all__ = ["StepTraffic", "TokenAnswer", "traffic_by"]


@dataclass(frozen=True)
class StepTraffic:
    """What one step of a plan moved at this party. `layer` is None outside the blocks."""

    name: str
    layer: int | None
    traffic: Traffic


@dataclass(frozen=True)
class TokenAnswer:
    """One generated token.

    Attributes:
        token: the id of the token, or None at the server.
        top: the ids and logits of the largest logits, best first, where "topk" is revealed at the client; otherwise None.
        logits: all logits (V,), where "logits" is revealed at the client; otherwise None.
        traffic: what the pass that made the token moved at this party, including its opening to the client, but without set-up.
        steps: what each step of the pass moved.
    """

    token: int | None
    top: list[tuple[int, float]] | None
    logits: np.ndarray | None
    traffic: Traffic
    steps: tuple[StepTraffic, ...] = field(repr=False, default=())


def traffic_by(answers: Iterable[TokenAnswer], key: Callable[[StepTraffic], str]) -> dict[str, Traffic]:
    """What the steps of some answers moved, summed by a key. What opening the answers moved is in none of the sums.

    Args:
        answers: the tokens of one answer.
        key: the key of a step, such as its name or its layer.
    """
    sums: dict[str, Traffic] = {}
    for answer in answers:
        for entry in answer.steps:
            sums[key(entry)] = sums.get(key(entry), Traffic()) + entry.traffic
    return sums
