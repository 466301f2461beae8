"""The questions of a completion request."""

from __future__ import annotations

from collections.abc import Sequence

from hushlm.data.tokenizer import Tokenizer
from hushlm.private.client.run_session import Question
from hushlm.private.program.description import ProgramDescription, RevealPolicy
from hushlm.proxy.completions.schema import CompletionRequest
from hushlm.proxy.errors import ApiError
from hushlm.proxy.questions import check_choices, check_limit, least_reveal, make_questions

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
    reveal = least_reveal(request, most)
    check_choices(request)
    new_tokens = request.max_tokens or DEFAULT_NEW_TOKENS
    check_limit(new_tokens, new_tokens_limit, "max_tokens")
    prompts = []
    for prompt in request.prompts:
        tokens = _encode(tokenizer, prompt, description.shape.context) if isinstance(prompt, str) else prompt
        _check(tokens, new_tokens, description)
        prompts.append(tokens)
    return make_questions(request, prompts, new_tokens, reveal)


def _encode(tokenizer: Tokenizer, prompt: str, context: int) -> list[int]:
    """All tokens of a prompt that may fit; of one that is much too long, more of them than fit."""
    try:
        return tokenizer.encode_end(prompt, context)[0]
    except ValueError as error:
        raise ApiError(400, str(error), parameter="prompt") from None


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
