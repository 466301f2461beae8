"""What a question is going to move, known before it is asked: the cost model's account of the passes that the program will make."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate

from hushlm.cost import LAN, CostReport, Network, price
from hushlm.cost.prepared import price_prepared_passes
from hushlm.cost.prepared.session import answer_plans, session_settings
from hushlm.plan import Plan
from hushlm.private.program.description import ProgramDescription, RevealPolicy

__all__ = ["Estimate", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """A question's predicted traffic; opening the session is counted apart.

    Attributes:
        passes: the priced passes, one for each token; equal passes are one object.
        set_up_bytes: what opening a session moves, both directions together.
    """

    passes: tuple[CostReport, ...]
    set_up_bytes: int

    @cached_property
    def bytes(self) -> int:
        """What all passes move, both directions together."""
        return sum(report.total.bytes for report in self.passes)

    @cached_property
    def messages(self) -> int:
        """How many messages both parties send."""
        return sum(report.total.messages for report in self.passes)

    @cached_property
    def seconds(self) -> float:
        """How long all passes take on the network of the estimate."""
        return self._ends[-1]

    def seconds_done(self, token: int, step: int) -> float:
        """Predicted seconds of what has been done.

        Args:
            token: number of the token that is being computed, counted from 0.
            step: how many steps of its pass are done.
        """
        before = self._ends[token - 1] if token else 0.0
        steps = self.passes[token].steps[:step]
        return before + sum(priced.amount.seconds for priced in steps)

    @cached_property
    def _ends(self) -> list[float]:
        return list(accumulate(sum(priced.amount.seconds for priced in report.steps) for report in self.passes))


def estimate(
    description: ProgramDescription,
    prompt_length: int,
    new_tokens: int,
    reveal: RevealPolicy = RevealPolicy(),
    network: Network = LAN,
    prepared: bool = False,
    draft: int = 0,
    forms: Network | None = None,
    near: bool = False,
) -> Estimate:
    """Price a question as `PrivateGenerator` runs it: lengths rounded up to buckets, one pass over the prompt, one a further token.

    Args:
        description: the program's.
        prompt_length: how many tokens the prompt has.
        new_tokens: how many tokens are asked for.
        reveal: what is opened of each step.
        network: the network for which seconds are predicted; bytes and messages do not depend on it.
        prepared: whether the answer uses material that was prepared before, which itself is not counted.
        draft: how many tokens each pass of such an answer guesses; all guesses are taken to be wrong.
        forms: the network that the client names: for it such an answer's forms and every session's oblivious transfers are chosen. None
            takes the forms with the fewest bytes, and the transfers by `near`.
        near: whether the server is on this machine, as far as its address says.
    """
    shape, policy = description.shape, reveal.operation(description.shape.vocabulary)
    architecture, rewrites = description.parsed_architecture, description.rewrites
    if prepared:
        passes = price_prepared_passes(
            architecture,
            shape,
            prompt_length,
            new_tokens,
            policy,
            rewrites,
            description.engine,
            network,
            draft=draft,
            forms=forms,
            near=near,
        )
        return Estimate(passes, passes[0].set_up.bytes)

    plans = answer_plans(architecture, shape, prompt_length, new_tokens, policy, rewrites)
    settings = session_settings(plans, description.engine, forms, near=near)

    @cache
    def priced(plan: Plan) -> CostReport:
        return price(plan, settings, network)

    passes = tuple(priced(plan) for plan in plans)
    return Estimate(passes, passes[0].set_up.bytes)
