"""The questions of a chat request."""

from __future__ import annotations

from hushlm.private.client.run_session import Question
from hushlm.private.program.description import ProgramDescription, RevealPolicy
from hushlm.proxy.chat.chat_format import ChatFormat
from hushlm.proxy.chat.schema import ChatRequest
from hushlm.proxy.errors import ApiError
from hushlm.proxy.questions import check_choices, check_limit, least_reveal, make_questions

__all__ = ["DEFAULT_CHAT_TOKENS", "chat_questions_of"]

DEFAULT_CHAT_TOKENS = 64
"""How many tokens a chat request without `max_completion_tokens` gets at most. OpenAI's would be the rest of the context, and here every
token has its price, whether the answer needs it or not."""


def chat_questions_of(
    request: ChatRequest,
    chat: ChatFormat,
    description: ProgramDescription,
    most: RevealPolicy,
    new_tokens_limit: int | None,
    usual_tokens: int = DEFAULT_CHAT_TOKENS,
) -> list[Question]:
    """The questions of a chat request, one for each choice.

    Args:
        request: the request, read already.
        chat: the model's way with conversations.
        description: the program's.
        most: most that may be revealed to this side.
        new_tokens_limit: how many tokens a choice may ask for at most; None leaves the context as the only limit.
        usual_tokens: how many tokens the answer has at most where the request does not say.

    Raises:
        ApiError: 400, one sentence: what was asked for does not go together, or does not fit the model.
    """
    reveal = least_reveal(request, most)
    check_choices(request)
    if request.new_tokens is not None:
        check_limit(request.new_tokens, new_tokens_limit, "max_tokens" if request.max_tokens else "max_completion_tokens")
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
    new_tokens = request.new_tokens or min(room, usual_tokens, new_tokens_limit or usual_tokens)
    return make_questions(request, [tokens], new_tokens, reveal)
