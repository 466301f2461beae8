"""What a request asks of the private client: a question for each choice, which reveals no more than it needs."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from hushlm.data.tokenizer import Tokenizer
from hushlm.private.client.run_session import Question
from hushlm.private.program.description import ProgramDescription, RevealPolicy
from hushlm.private.program.sampling import Sampling
from hushlm.proxy.errors import ApiError
from hushlm.proxy.schema import CompletionRequest

__all__ = ["DEFAULT_NEW_TOKENS", "questions_of"]

DEFAULT_NEW_TOKENS = 16
"""How many tokens a request without `max_tokens` gets: OpenAI's number."""


def questions_of(
    request: CompletionRequest, tokenizer: Tokenizer, description: ProgramDescription, most: RevealPolicy, new_tokens_limit: int | None
) -> list[Question]:
    """The questions of a request, one for each choice, prompt by prompt.

    Args:
        request: the request, read already.
        tokenizer: the model's.
        description: the program's.
        most: most that may be revealed to this side.
        new_tokens_limit: how many tokens a choice may ask for at most; None leaves the context as the only limit.

    Raises:
        ApiError: 400, one sentence: what was asked for does not go together, or does not fit the model.
    """
    reveal = _reveal(request, most)
    count = request.n or 1
    if count > 1 and not request.temperature:
        raise ApiError(400, "At temperature 0 all answers to a prompt are the same: ask for n = 1, or set a temperature.", parameter="n")
    new_tokens = request.max_tokens or DEFAULT_NEW_TOKENS
    if new_tokens_limit is not None and new_tokens > new_tokens_limit:
        raise ApiError(400, f"This proxy asks for at most {new_tokens_limit} tokens, not {new_tokens}.", parameter="max_tokens")
    # Not negative, and short enough for the sampler; a request's own seed gives the same draws again.
    seed = secrets.randbits(63) if request.seed is None else request.seed % 2**63
    questions = []
    for prompt in request.prompts:
        tokens = _encode(tokenizer, prompt, description.shape.context) if isinstance(prompt, str) else prompt
        _check(tokens, new_tokens, description)
        for index in range(count):
            sampling = Sampling(temperature=request.temperature or 0.0, top_p=request.top_p or 1.0, seed=seed + index)
            questions.append(Question(tuple(tokens), new_tokens, reveal, sampling))
    return questions


def _encode(tokenizer: Tokenizer, prompt: str, context: int) -> list[int]:
    """All tokens of a prompt that may fit; of one that is much too long, more of them than fit."""
    try:
        return tokenizer.encode_end(prompt, context)[0]
    except ValueError as error:
        raise ApiError(400, str(error), parameter="prompt") from None


def _reveal(request: CompletionRequest, most: RevealPolicy) -> RevealPolicy:
    """The least revealing policy that answers the request."""
    if request.logprobs is not None:
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


def _check(tokens: Sequence[int], new_tokens: int, description: ProgramDescription) -> None:
    context, vocabulary = description.shape.context, description.shape.vocabulary
    if not tokens:
        raise ApiError(400, "A prompt is empty: give at least one token.", parameter="prompt")
    if not all(0 <= token < vocabulary for token in tokens):
        raise ApiError(400, f"A prompt has a token outside 0 to {vocabulary - 1}.", parameter="prompt")
    if len(tokens) + new_tokens > context:
        raise ApiError(
            400,
            f"A prompt of {len(tokens)} tokens and max_tokens = {new_tokens} exceed the model's context of {context}: shorten one of them.",
            "context_length_exceeded",
            "prompt",
        )
