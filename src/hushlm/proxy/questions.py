"""What a request asks of the private client: a question for each choice, which reveals no more than it needs."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence

from hushlm.data.tokenizer import Tokenizer
from hushlm.private.client.run_session import Question
from hushlm.private.program.description import ProgramDescription, RevealPolicy
from hushlm.private.program.sampling import Sampling
from hushlm.proxy.chat.chat_format import ChatFormat
from hushlm.proxy.chat.schema import ChatRequest
from hushlm.proxy.errors import ApiError
from hushlm.proxy.schema import CompletionRequest

__all__ = ["DEFAULT_CHAT_TOKENS", "DEFAULT_NEW_TOKENS", "chat_questions_of", "questions_of"]

DEFAULT_NEW_TOKENS = 16
"""How many tokens a request without `max_tokens` gets: OpenAI's number."""

DEFAULT_CHAT_TOKENS = 64
"""How many tokens a chat request without `max_completion_tokens` gets at most. OpenAI's would be the rest of the context, and here every
token has its price, whether the answer needs it or not."""


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
    _check_choices(request)
    new_tokens = request.max_tokens or DEFAULT_NEW_TOKENS
    _check_limit(new_tokens, new_tokens_limit, "max_tokens")
    prompts = []
    for prompt in request.prompts:
        tokens = _encode(tokenizer, prompt, description.shape.context) if isinstance(prompt, str) else prompt
        _check(tokens, new_tokens, description)
        prompts.append(tokens)
    return _questions(request, prompts, new_tokens, reveal)


def chat_questions_of(
    request: ChatRequest, chat: ChatFormat, description: ProgramDescription, most: RevealPolicy, new_tokens_limit: int | None
) -> list[Question]:
    """The questions of a chat request, one for each choice.

    Args:
        request: the request, read already.
        chat: the model's way with conversations.
        description: the program's.
        most: most that may be revealed to this side.
        new_tokens_limit: how many tokens a choice may ask for at most; None leaves the context as the only limit.

    Raises:
        ApiError: 400, one sentence: what was asked for does not go together, or does not fit the model.
    """
    reveal = _reveal(request, most)
    _check_choices(request)
    if request.new_tokens is not None:
        _check_limit(request.new_tokens, new_tokens_limit, "max_tokens" if request.max_tokens else "max_completion_tokens")
    context = description.shape.context
    try:
        tokens, whole = chat.encode([message.turn for message in request.messages], context)
    except ValueError as error:
        raise ApiError(400, str(error), parameter="messages") from None
    room = context - len(tokens)
    if not tokens:
        raise ApiError(400, "The conversation becomes an empty prompt: give a message with some text.", parameter="messages")
    if room < (request.new_tokens or 1):
        answer = f"an answer of {request.new_tokens or 1}"
        raise ApiError(
            400,
            f"The conversation has {'' if whole else 'more than '}{len(tokens)} tokens with its template, which with {answer} exceed the "
            f"model's context of {context}: leave out the oldest messages, or shorten them.",
            "context_length_exceeded",
            "messages",
        )
    new_tokens = request.new_tokens or min(room, DEFAULT_CHAT_TOKENS, new_tokens_limit or DEFAULT_CHAT_TOKENS)
    return _questions(request, [tokens], new_tokens, reveal)


def _questions(
    request: CompletionRequest | ChatRequest, prompts: Iterable[Sequence[int]], new_tokens: int, reveal: RevealPolicy
) -> list[Question]:
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


def _encode(tokenizer: Tokenizer, prompt: str, context: int) -> list[int]:
    """All tokens of a prompt that may fit; of one that is much too long, more of them than fit."""
    try:
        return tokenizer.encode_end(prompt, context)[0]
    except ValueError as error:
        raise ApiError(400, str(error), parameter="prompt") from None


def _reveal(request: CompletionRequest | ChatRequest, most: RevealPolicy) -> RevealPolicy:
    """The least revealing policy that answers the request."""
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


def _check_choices(request: CompletionRequest | ChatRequest) -> None:
    if (request.n or 1) > 1 and not request.temperature:
        raise ApiError(400, "At temperature 0 all answers to a prompt are the same: ask for n = 1, or set a temperature.", parameter="n")


def _check_limit(new_tokens: int, limit: int | None, parameter: str) -> None:
    if limit is not None and new_tokens > limit:
        raise ApiError(400, f"This proxy asks for at most {limit} tokens, not {new_tokens}.", parameter=parameter)


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
