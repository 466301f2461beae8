"""A completion request, checked."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from hushlm.proxy.errors import ApiError
from hushlm.proxy.schema import MAXIMUM_CHOICES, NEUTRAL, GenerationRequest, check_neutral, check_stream_options, read_request

__all__ = ["CompletionRequest", "read_completion"]

Text = Annotated[str, Field(min_length=1)]


class CompletionRequest(GenerationRequest):
    """OpenAI's `POST /v1/completions`.

    Attributes:
        prompt: a text, several texts, token ids, or several lists of token ids; each prompt takes a private session.
        echo: whether the prompt's text stands before the answer's.
        logprobs: how many of the likeliest tokens to name at each place; 0 names the chosen one alone.
        best_of, suffix: accepted only with values that ask for nothing.
    """

    prompt: Text | list[Text] | list[int] | list[list[int]]
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)
    best_of: int | None = None
    suffix: str | None = None

    @property
    def named(self) -> int | None:
        """How many of the likeliest tokens to name at each place; 0 for the chosen one alone; None without log-probabilities."""
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or more, each text or token ids."""
        match self.prompt:
            case str():
                return [self.prompt]
            case [int(), *_]:
                return [[token for token in self.prompt if isinstance(token, int)]]
            case _:
                return [prompt for prompt in self.prompt if isinstance(prompt, str | list)]


def read_completion(body: bytes, context: int | None = None) -> CompletionRequest:
    """Read a request, in time that is bounded by the limits and not by the body.

    Args:
        body: JSON in UTF-8.
        context: the model's, in tokens, which a prompt of token ids cannot exceed; None leaves that unchecked.

    Raises:
        ApiError: 400, with the first thing that is wrong.
    """
    request = read_request(body, CompletionRequest, lambda values: _check_prompts(values.get("prompt"), context))
    if not request.prompts:
        raise ApiError(400, "The list of prompts is empty: give at least one.", parameter="prompt")
    check_neutral(request, NEUTRAL | {"suffix": ("",), "best_of": (1, request.n or 1)})
    if request.echo and request.logprobs is not None:
        raise ApiError(400, "logprobs are known of the answer only: leave out echo or logprobs.", "unsupported_parameter", "echo")
    _check_choices(len(request.prompts) * (request.n or 1))
    check_stream_options(request)
    return request


def _check_prompts(prompt: Any, context: int | None) -> None:
    if not isinstance(prompt, list) or not prompt:
        return
    if isinstance(prompt[0], str | list):
        _check_choices(len(prompt))
    for tokens in prompt if isinstance(prompt[0], list) else [prompt]:
        if context is not None and isinstance(tokens, list) and len(tokens) >= context:
            raise ApiError(
                400,
                f"A prompt of {len(tokens)} tokens exceeds the model's context of {context}: shorten it.",
                "context_length_exceeded",
                "prompt",
            )


def _check_choices(choices: int) -> None:
    if choices > MAXIMUM_CHOICES:
        raise ApiError(
            400, f"This would take {choices} private sessions, and a request may have {MAXIMUM_CHOICES}: split it.", parameter="n"
        )
