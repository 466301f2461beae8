"""A completion request, checked: what this proxy does not do is refused by name, never ignored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hushlm.private.session.messages import printable
from hushlm.proxy.errors import ApiError

__all__ = ["CompletionRequest", "read_completion"]

MAXIMUM_CHOICES = 16
"""Sessions of one request."""

Text = Annotated[str, Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]


class _Closed(BaseModel):
    # Strict: "3" is not 3. Closed: a parameter that would be ignored is refused.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StreamOptions(_Closed):
    """Attributes:
    include_usage: a last chunk tells the usage.
    include_obfuscation: padding against observers of the network; None is needed on loopback, and none is sent.
    """

    include_usage: bool = False
    include_obfuscation: bool = False


class CompletionRequest(_Closed):
    """OpenAI's `POST /v1/completions`.

    Attributes:
        model: id of the served model.
        prompt: text, texts, token ids, or lists of these; one private session each.
        max_tokens: to be generated; known to the server, so all are computed even if a stop string comes earlier.
        temperature: 0, the default here, is greedy; OpenAI's default of 1 needs logits at this side.
        top_p: of nucleus sampling.
        n: answers a prompt.
        stream: chunks as server-sent events.
        stop: strings that end the text.
        seed: of the draws; by chance if absent.
        echo: the prompt's text before the answer's.
        logprobs: how many likeliest tokens to name at each place, 0 for the chosen one alone.
        user: taken and forgotten: nothing of it leaves this machine.
        best_of, suffix, frequency_penalty, presence_penalty, logit_bias: only as if they were absent.
    """

    model: str
    prompt: Text | list[Text] | list[int] | list[list[int]]
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MAXIMUM_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: int | None = None
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)
    user: str | None = None
    best_of: int | None = None
    suffix: str | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

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


def read_completion(body: bytes) -> CompletionRequest:
    """Read a request.

    Raises:
        ApiError: 400, with the first thing that is wrong.
    """
    try:
        request = CompletionRequest.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from error
    if not request.prompts:
        raise ApiError(400, "The list of prompts is empty: give at least one.", parameter="prompt")
    for name, neutral in _NEUTRAL.items():
        value = getattr(request, name)
        if value is not None and value not in neutral and not (name == "best_of" and value == (request.n or 1)):
            raise ApiError(400, f"{name} is not supported by this proxy: leave it out.", "unsupported_parameter", name)
    if request.echo and request.logprobs is not None:
        raise ApiError(400, "logprobs are known of the answer only: leave out echo or logprobs.", "unsupported_parameter", "echo")
    choices = len(request.prompts) * (request.n or 1)
    if choices > MAXIMUM_CHOICES:
        raise ApiError(
            400, f"This would take {choices} private sessions, and a request may have {MAXIMUM_CHOICES}: split it.", parameter="n"
        )
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options are for streams: set stream to true or leave them out.", parameter="stream_options")
    return request


_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
}
"""Values of what is not supported that ask for nothing."""


_UNIONS = {
    "prompt": "a text, token ids, or a list of one of them, and none may be empty",
    "stop": "a text or up to 4 texts, none of them empty or longer than 200 characters",
}
"""Parameters of several types, where the first of many complaints says little."""


def _refusal(error: ValidationError) -> ApiError:
    first: Any = error.errors(include_input=False, include_url=False)[0]
    name = printable(str(first["loc"][0])) if first["loc"] else None
    match first["type"]:
        case "json_invalid" | "model_type" | "model_attributes_type":
            return ApiError(400, "The request's body is not a JSON object.")
        case "extra_forbidden" if len(first["loc"]) == 1:
            return ApiError(400, f"{name} is not a parameter that this proxy knows: leave it out.", "unsupported_parameter", name)
        case "missing":
            return ApiError(400, f"The parameter {name} is missing.", "missing_parameter", name)
    if name in _UNIONS:
        return ApiError(400, f"{name} must be {_UNIONS[name]}.", "invalid_value", name)
    where = printable(".".join(map(str, first["loc"])))
    message = first["msg"]
    return ApiError(400, f"{where}: {message[:1].lower()}{message[1:]}.", "invalid_value", name)
