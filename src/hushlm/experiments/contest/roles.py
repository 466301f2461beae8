"""Which finalists answer the contest's questions: chosen by validation perplexity and predicted bytes, reported on the test split."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from hushlm.architectures import parse
from hushlm.config import RunConfig
from hushlm.experiments.contest.objective import OBJECTIVES, compares_nothing, costs_of
from hushlm.experiments.scales import BASELINE, ContestScale
from hushlm.experiments.study import RowOutcome

__all__ = ["ONLINE_ROLES", "ROLES", "explained", "roles", "validation_perplexity"]

SMALL_RATIO, MEDIUM_RATIO = 1.10, 1.00

ROLES = {
    "S": f"the cheapest within {SMALL_RATIO:.2f} times the baseline's perplexity",
    "M": f"the cheapest within {MEDIUM_RATIO:.2f} times",
    "L": "the best perplexity below the paper's bytes",
}
ONLINE_ROLES = {**ROLES, "L": f"the best perplexity below {OBJECTIVES['online'].best_below:.0f} s over a LAN"}
"""The questions that each scale's own contest answers. The recommended models (recommended.py) were chosen in view of all scales."""


def explained(finals: Sequence[RowOutcome], scale: ContestScale) -> RowOutcome:
    """The row that the contest takes apart: M, or L where there is none, among what its own search found if it searched at all.

    Rows added by hand come and go; the tables that say why stay with the search. In the contest in seconds it is the best model that
    compares nothing, whoever found it.
    """
    if scale.objective == "online":
        free = [row for row in finals[1:] if compares_nothing(parse(row.row.architecture))]
        return min(free or finals[1:], key=validation_perplexity)
    searched = [row for row in finals[1:] if row.row.trial is not None]
    found = roles([finals[0], *(searched or finals[1:])], scale)
    return found.get("M") or found["L"]


def roles(finals: Sequence[RowOutcome], scale: ContestScale) -> dict[str, RowOutcome]:
    """The rows that answer the questions of `ROLES` at a scale, as far as there are such.

    Args:
        finals: the tuned and measured rows, the baseline first.
    """
    limit = validation_perplexity(finals[0])
    models = [row for row in finals if row.row.architecture != BASELINE]
    found: dict[str, RowOutcome] = {}
    for name, ratio in (("S", SMALL_RATIO), ("M", MEDIUM_RATIO)):
        allowed = [row for row in models if validation_perplexity(row) <= ratio * limit]
        if allowed:
            found[name] = min(allowed, key=lambda row: _cost(row, scale))
    allowed = [row for row in models if _cost(row, scale) <= OBJECTIVES[scale.objective].best_below]
    if allowed:
        found["L"] = min(allowed, key=validation_perplexity)
    return found


def validation_perplexity(outcome: RowOutcome) -> float:
    """The mean of the validation perplexity over seeds; infinite where a run was stopped."""
    found = [run.validation_perplexity for run in outcome.runs]
    return statistics.mean(value for value in found if value is not None) if found and all(found) else float("inf")


def _cost(outcome: RowOutcome, scale: ContestScale) -> float:
    return costs_of(RunConfig.from_dict(outcome.runs[0].settings), scale)[0]
