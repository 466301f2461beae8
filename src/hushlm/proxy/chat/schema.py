"""A chat request, checked by the same rules as a completion request: what this proxy does not do is refused by name, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hushlm.private.session.messages import printable
from hushlm.proxy.chat.template import Turn
from hushlm.proxy.errors import ApiError
from hushlm.proxy.schema import NEUTRAL, Closed, GenerationRequest, check_neutral, check_stream_options, read_request

__all__ = ["ChatRequest", "read_chat"]

MAXIMUM_PARTS = 100
"""How many parts a message's content may have."""


class TextPart(Closed):
    """A part of a message's content.

    Attributes:
        type: text; there is no other part that a language model reads.
        text: the text.
    """

    type: Literal["text"]
    text: str


class Message(Closed):
    """A turn of the conversation.

    Attributes:
        role: whose turn it is; "developer" is OpenAI's newer word for "system".
        content: a text, or texts, which are joined without anything between them.
        refusal, tool_calls, function_call, audio, annotations, name: accepted only with values that say nothing.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: None = None
    refusal: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: None = None
    audio: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def turn(self) -> Turn:
        """As a chat template reads it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(GenerationRequest):
    """OpenAI's `POST /v1/chat/completions`.

    Attributes:
        messages: the conversation so far.
        max_completion_tokens: the newer name of `max_tokens`.
        logprobs: whether to give the log-probability of each token.
        top_logprobs: how many of the likeliest tokens to name at each place.
        others: accepted only with values that ask for nothing.
    """

    messages: list[Message]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    modalities: list[str] | None = None
    service_tier: str | None = None

    @property
    def named(self) -> int | None:
        """How many of the likeliest tokens to name at each place; 0 for the chosen one alone; None without log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def new_tokens(self) -> int | None:
        """How many tokens to generate, by whichever name."""
        return self.max_completion_tokens or self.max_tokens


def read_chat(body: bytes, context: int | None = None) -> ChatRequest:
    """Read a request, in time that is bounded by the limits and not by the body.

    Args:
        body: JSON in UTF-8.
        context: the model's, in tokens, more than which no conversation has messages; None leaves that unchecked.

    Raises:
        ApiError: 400, with the first thing that is wrong.
    """
    request = read_request(body, ChatRequest, lambda values: _check_messages(values.get("messages"), context))
    if not request.messages:
        raise ApiError(400, "The list of messages is empty: give at least one.", parameter="messages")
    check_neutral(request, _NEUTRAL)
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "top_logprobs are for log-probabilities: set logprobs to true or leave them out.", parameter="top_logprobs")
    if None not in (request.max_tokens, request.max_completion_tokens) and request.max_tokens != request.max_completion_tokens:
        raise ApiError(
            400, "max_tokens is the older name of max_completion_tokens, and they differ: leave one out.", parameter="max_completion_tokens"
        )
    check_stream_options(request)
    return request


def _check_messages(messages: Any, context: int | None) -> None:
    """Refuse by name what messages may not hold, in words that a long list of complaints about types would not give."""
    if not isinstance(messages, list):
        return
    if context is not None and len(messages) > context:
        raise ApiError(
            400,
            f"{len(messages)} messages exceed the model's context of {context} tokens: leave out the oldest.",
            "context_length_exceeded",
            "messages",
        )
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ApiError(400, f"messages.{number} is not an object with a role and a content.", "invalid_value", "messages")
        _check_message(f"messages.{number}", message)


def _check_message(where: str, message: dict[str, Any]) -> None:
    role, content = message.get("role"), message.get("content")
    if len(message) > len(Message.model_fields):
        raise ApiError(400, f"{where} has {len(message)} entries: give a role and a content.", "invalid_value", "messages")
    if role in ("tool", "function") or message.get("tool_calls") or message.get("function_call"):
        raise ApiError(400, f"{where}: this proxy knows no tools: leave their calls and results out.", "unsupported_value", "messages")
    if message.get("name") is not None:
        raise ApiError(400, f"{where}: name is not supported by this proxy: leave it out.", "unsupported_parameter", "messages")
    if content is None and "role" in message:
        raise ApiError(400, f"{where} has no content: give a text.", "invalid_value", "messages")
    if not isinstance(content, list):
        return
    if not content or len(content) > MAXIMUM_PARTS:
        raise ApiError(400, f"{where} has {len(content)} parts, and needs 1 to {MAXIMUM_PARTS}.", "invalid_value", "messages")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or (kind == "text" and len(part) > len(TextPart.model_fields)):
            raise ApiError(400, f"{where} has a part that is not a type and a text.", "invalid_value", "messages")
        if isinstance(kind, str) and kind != "text":
            raise ApiError(
                400,
                f"{where} has a part of type {printable(kind)!r}, and this model reads text only: send parts of type 'text'.",
                "unsupported_value",
                "messages",
            )


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **NEUTRAL,
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "store": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
}
"""Values of what is not supported that ask for nothing."""
