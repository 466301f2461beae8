"""What a question is going to move where it uses a prepared answer: the online forms' own account of their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from hushlm.cost.constants import load_constants
from hushlm.cost.prepared.online_bytes import SMALL_COMPARISON, SMALL_SELECTION, engine_bytes, opened_bytes
from hushlm.cost.primitives import Primitives
from hushlm.plan import Normalise, Plan, Reveal, RmsNormalise
from hushlm.plan.needs import is_prepared, pass_needs
from hushlm.private.client.estimate import Estimate, question_plans
from hushlm.private.program.description import ProgramDescription, RevealPolicy

__all__ = ["PreparedEstimate", "prepared_estimate"]

SECONDS_PER_BYTE = 9e-8
"""For the time that is shown before anything is done: 35 s for 392 MB, as a first token of Hush-M was estimated on a local network."""


@dataclass(frozen=True)
class PreparedEstimate:
    """A question's predicted traffic, as `Estimate` has it; shares of time are shares of bytes.

    Attributes:
        passes: bytes of each pass's steps, both directions together.
    """

    passes: tuple[tuple[float, ...], ...]

    @cached_property
    def bytes(self) -> int:
        """What all passes move, both directions together."""
        return round(sum(map(sum, self.passes)))

    @cached_property
    def seconds(self) -> float:
        """A first guess at how long all passes take on a local network."""
        return self.bytes * SECONDS_PER_BYTE

    def seconds_done(self, token: int, step: int) -> float:
        """Predicted seconds of what has been done, as `Estimate.seconds_done`."""
        return SECONDS_PER_BYTE * (sum(map(sum, self.passes[:token])) + sum(self.passes[token][:step]))


def prepared_estimate(
    description: ProgramDescription, prompt_length: int, new_tokens: int, reveal: RevealPolicy, today: Estimate
) -> PreparedEstimate:
    """Predict a question on a prepared answer; what has no prepared form is priced as the engine computes it.

    Args:
        description: the program's.
        prompt_length, new_tokens, reveal: of the question.
        today: the price of the same question without preparation.
    """
    prices = Primitives(load_constants().values, description.engine)
    opened: dict[str, int] = {}
    plans = question_plans(description, prompt_length, new_tokens, reveal)
    passes = [
        _pass_bytes(plan, opened, [priced.amount.bytes for priced in report.steps], prices, description.engine.fraction_bits)
        for plan, report in zip(plans, today.passes, strict=True)
    ]
    return PreparedEstimate(tuple(passes))


def _pass_bytes(plan: Plan, opened: dict[str, int], today: Sequence[float], prices: Primitives, fraction_bits: int) -> tuple[float, ...]:
    found = []
    for (step, needs), priced in zip(pass_needs(plan, opened), today, strict=True):
        operation = step.operation
        if not is_prepared(operation):
            found.append(float(priced))
        elif isinstance(operation, Reveal) and operation.kind == "token":
            # A tournament of so many comparisons, each of which selects a value and an id.
            found.append((operation.vocabulary - 1) * (SMALL_COMPARISON + 2 * SMALL_SELECTION))
        else:
            roots = prices.reciprocal_square_root(operation.rows).total_bytes if isinstance(operation, Normalise | RmsNormalise) else 0.0
            found.append(sum(sum(opened_bytes(need)) for need in needs) + engine_bytes(operation, fraction_bits) + roots)
    return tuple(found)
