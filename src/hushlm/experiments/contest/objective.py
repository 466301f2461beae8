"""What a contest holds against perplexity: the bytes of a private token as it is served without preparation, or the seconds of an answer
that was prepared, over a LAN and over a WAN. Either at GPT-2 small's scale, by the cost model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hushlm.architectures import Architecture, FeedForward
from hushlm.config import RunConfig
from hushlm.experiments.equivalent import equivalent, prepared_at
from hushlm.experiments.scales import ContestScale

__all__ = ["OBJECTIVES", "Cap", "Cost", "Objective", "compares_nothing", "costs_of"]

OFFLINE_CPU_SECONDS = 6_000.0
"""A model whose material for one answer takes more work than this is no candidate of the contest in seconds."""

_WITHOUT_COMPARISON = (FeedForward.IDENTITY, FeedForward.SCALED, FeedForward.SCALED_FUSED, FeedForward.QUADRATIC, FeedForward.BILINEAR)


@dataclass(frozen=True)
class Cost:
    """One price that is to be small.

    Attributes:
        key: its name in result files.
        heading: of a table's column.
        unit: how much of it is one of the heading's unit.
        decimals: shown of it.
    """

    key: str
    heading: str
    unit: float
    decimals: int

    def shown(self, value: float) -> str:
        return f"{value / self.unit:.{self.decimals}f}"


@dataclass(frozen=True)
class Cap:
    """A limit below which the contest looks for the best model.

    Attributes:
        below: of the cost, in its own unit of measure (bytes, seconds).
        cost: which of the objective's costs, counted from 0.
        without_comparison: only among models that compare nothing inside their layers.
    """

    below: float
    cost: int = 0
    without_comparison: bool = False


@dataclass(frozen=True)
class Objective:
    """What a search makes small beside the validation loss.

    Attributes:
        costs: the first one names models (`roles`).
        caps: below each of them a finalist is sought.
        best_below: the first cost below which the best perplexity is asked for.
    """

    costs: tuple[Cost, ...]
    caps: tuple[Cap, ...]
    best_below: float


PAPERS_BEST_BYTES = 6_430_000_000
"""What the paper's EReg(SM(t)+ScFuFFN) takes for one token of GPT-2 small with a context of 128 (arXiv 2501.03489, Table 3)."""

OBJECTIVES: dict[Literal["bytes", "online"], Objective] = {
    # Below the first two a model should be within 1.10 times the baseline's perplexity, below the next two within 1.00 times.
    "bytes": Objective(
        (Cost("bytes_gpt2_small", "GB", 1e9, 2),),
        tuple(Cap(below) for below in (800_000_000, 1_000_000_000, 1_200_000_000, 1_600_000_000, PAPERS_BEST_BYTES)),
        PAPERS_BEST_BYTES,
    ),
    # Of a first token. Without comparison a model should be within 1.00 times the baseline's perplexity; the third cap is for 0.97 times.
    "online": Objective(
        (Cost("online_seconds_lan", "s LAN", 1, 1), Cost("online_seconds_wan", "s WAN", 1, 0)),
        (Cap(8), Cap(15), Cap(35), Cap(60, 1), Cap(15, without_comparison=True), Cap(60, 1, without_comparison=True)),
        35.0,
    ),
}
"""By the name that a scale gives."""


def costs_of(config: RunConfig, scale: ContestScale) -> tuple[float, ...]:
    """The costs of a run's model at GPT-2 small's scale, in the order of the scale's objective; infinite where it is no candidate.

    Raises:
        ValueError: if a size has no whole counterpart there.
    """
    there = equivalent(config, scale)
    if scale.objective == "bytes":
        return (float(there.bytes),)
    price = prepared_at(config.parsed_architecture, there.shape)
    if price.offline_cpu_seconds > OFFLINE_CPU_SECONDS:
        return (float("inf"),) * 2
    return (price.online_seconds_lan, price.online_seconds_wan)


def compares_nothing(architecture: Architecture) -> bool:
    """Whether nothing inside the layers is compared; the reciprocal of a row's sum and the choice of a token still are."""
    return architecture.power and architecture.feed_forward in _WITHOUT_COMPARISON


def below(cap: Cap, costs: Sequence[float], architecture: Architecture) -> bool:
    """Whether a model may stand below a cap."""
    return costs[cap.cost] <= cap.below and (compares_nothing(architecture) or not cap.without_comparison)
