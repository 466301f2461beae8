"""What every kind of request asks of the private client: a question for each choice, which reveals no more than it needs."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence

from hushlm.private.client.run_session import Question
from hushlm.private.program.description import RevealPolicy
from hushlm.private.program.sampling import Sampling
from hushlm.proxy.errors import ApiError
from hushlm.proxy.schema import GenerationRequest

__all__ = ["check_choices", "check_limit", "least_reveal", "make_questions"]


def make_questions(request: GenerationRequest, prompts: Iterable[Sequence[int]], new_tokens: int, reveal: RevealPolicy) -> list[Question]:
    """A question for each choice, prompt by prompt.

    Args:
        request: says how choices are drawn and how many there are.
        prompts: token ids of each prompt.
        new_tokens: how many tokens each choice has.
        reveal: what is revealed to this side.
    """
    # Not negative, and short enough for the sampler; a request's own seed gives the same draws again.
    seed = secrets.randbits(63) if request.seed is None else request.seed % 2**63
    return [
        Question(
            tuple(tokens),
            new_tokens,
            reveal,
            Sampling(temperature=request.temperature or 0.0, top_p=request.top_p or 1.0, seed=seed + index),
        )
        for tokens in prompts
        for index in range(request.n or 1)
    ]


def least_reveal(request: GenerationRequest, most: RevealPolicy) -> RevealPolicy:
    """The least revealing policy that answers the request.

    Raises:
        ApiError: 400, if that is more than `most`.
    """
    if request.named is not None:
        if most.kind != "logits":
            raise ApiError(
                400,
                "logprobs need every logit at this side: leave them out, or start the proxy with --reveal logits.",
                parameter="logprobs",
            )
        return most
    if not request.temperature:
        return RevealPolicy()
    if most.kind == "token":
        raise ApiError(
            400,
            "Sampling needs logits at this side: set temperature to 0, or start the proxy with --reveal topk:K or --reveal logits.",
            parameter="temperature",
        )
    return most


def check_choices(request: GenerationRequest) -> None:
    """Raises: ApiError, 400, for several answers that would be the same."""
    if (request.n or 1) > 1 and not request.temperature:
        raise ApiError(400, "At temperature 0 all answers to a prompt are the same: ask for n = 1, or set a temperature.", parameter="n")


def check_limit(new_tokens: int, limit: int | None, parameter: str) -> None:
    """Raises: ApiError, 400, for more tokens than the limit; None is no limit."""
    if limit is not None and new_tokens > limit:
        raise ApiError(400, f"This proxy asks for at most {limit} tokens, not {new_tokens}.", parameter=parameter)
