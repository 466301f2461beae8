"""What requests of every kind have in common, and how they are checked: what this proxy does not do is refused by name, never ignored."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from hushlm.private.session.messages import printable
from hushlm.proxy.errors import ApiError

__all__ = [
    "MAXIMUM_CHOICES",
    "NEUTRAL",
    "Closed",
    "GenerationRequest",
    "Stop",
    "StreamOptions",
    "check_neutral",
    "check_stream_options",
    "read_request",
]

MAXIMUM_CHOICES = 16
"""How many private sessions one request may take."""

MAXIMUM_ENTRIES = 300
"""How many entries an object within a request may have: OpenAI's own bound on `logit_bias`."""

Stop = Annotated[str, Field(min_length=1, max_length=200)]


class Closed(BaseModel):
    """What a request may hold, and nothing else."""

    # Strict: "3" is not 3. Closed: a parameter that would be ignored is refused.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StreamOptions(Closed):
    """What a stream holds besides the answer.

    Attributes:
        include_usage: whether a last chunk tells how many tokens were used.
        include_obfuscation: padding against observers of the network; accepted, but none is sent, for loopback does not need it.
    """

    include_usage: bool = False
    include_obfuscation: bool = False


class GenerationRequest(Closed):
    """What requests for completions and for chats have in common.

    Attributes:
        model: id of the served model.
        max_tokens: how many tokens to generate; the server knows it, so all are computed even if a stop string comes earlier.
        temperature: 0, the default here, takes the likeliest token; OpenAI's default of 1 needs logits at this side.
        top_p: tokens are drawn among the likeliest that reach this probability together.
        n: how many answers each prompt gets, a private session each.
        stream: whether to answer in chunks, as server-sent events.
        stream_options: what the stream holds besides.
        stop: strings that end the text.
        seed: number that decides the draws; chosen at random if absent.
        user: accepted and forgotten; nothing of it leaves this machine.
        frequency_penalty, presence_penalty, logit_bias: accepted only with values that ask for nothing.
    """

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    n: int | None = Field(default=None, ge=1, le=MAXIMUM_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: int | None = None
    user: str | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    @abstractmethod
    def named(self) -> int | None:
        """How many of the likeliest tokens to name at each place; 0 for the chosen one alone; None without log-probabilities."""


Request = TypeVar("Request", bound=GenerationRequest)

NEUTRAL: dict[str, tuple[Any, ...]] = {"frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},)}
"""Values of what is not supported that ask for nothing, by parameter; each kind of request adds its own."""


def check_neutral(request: GenerationRequest, neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse what is not supported, unless its value asks for nothing.

    Args:
        request: read already.
        neutral: values that ask for nothing, by the parameter's name.

    Raises:
        ApiError: 400, for the first one that does.
    """
    for name, values in neutral.items():
        value = getattr(request, name)
        if value is not None and value not in values:
            raise ApiError(400, f"{name} is not supported by this proxy: leave it out.", "unsupported_parameter", name)


def check_stream_options(request: GenerationRequest) -> None:
    """Raises: ApiError, 400, if there are options of a stream, and no stream."""
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options are for streams: set stream to true or leave them out.", parameter="stream_options")


def read_request(body: bytes, kind: type[Request], check: Callable[[dict[str, Any]], None]) -> Request:
    """A request of some kind, in time that is bounded by the limits and not by the body.

    Args:
        body: JSON in UTF-8.
        kind: what it must be.
        check: refuses, by an `ApiError`, what would take long to look at or get vague words.

    Raises:
        ApiError: 400, with the first thing that is wrong.
    """
    values = _read_object(body)
    _check_entries(values, kind)
    check(values)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from error


def _read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises:
        ApiError: 400, in one sentence, if it holds something else.
    """
    try:
        values = from_json(body)
    except ValueError as error:
        raise ApiError(400, _not_json(body)) from error
    if not isinstance(values, dict):
        raise ApiError(400, "The request's body is not a JSON object.")
    return values


def _not_json(body: bytes) -> str:
    """Why a body is not JSON in UTF-8, in one sentence."""
    try:
        values = json.loads(body.decode())
    except UnicodeDecodeError as error:
        return f"The request's body is not UTF-8: byte {error.start + 1} is 0x{body[error.start]:02x}."
    except (ValueError, RecursionError):
        return "The request's body is not a JSON object."
    # Python's own parser takes what the strict one does not: half a surrogate pair, which is no character.
    if found := _lone_surrogate(values):
        name, code = found
        where = f" in {printable(name)}" if name else ""
        return f"The request's body has a lone surrogate (\\u{code:04x}){where}, which is no character: send the pair, or leave it out."
    return "The request's body is not a JSON object."


def _lone_surrogate(value: Any, name: str = "") -> tuple[str, int] | None:
    """The parameter with the first lone surrogate, and its code."""
    match value:
        case str():
            return next(((name, ord(character)) for character in value if "\ud800" <= character <= "\udfff"), None)
        case list():
            return next((found for part in value if (found := _lone_surrogate(part, name))), None)
        case dict():
            parts = ((part, name or key) for key, inner in value.items() for part in (key, inner))
            return next((found for part, where in parts if (found := _lone_surrogate(part, where))), None)
    return None


def _check_entries(values: dict[str, Any], kind: type[BaseModel]) -> None:
    """Refuse unknown names, and far too much of anything, before each part is looked at, which would stop all other requests for seconds.

    Raises:
        ApiError: 400, for the first of them.
    """
    unknown = next((name for name in values if name not in kind.model_fields), None)
    if unknown is not None:
        raise _unknown_parameter(printable(unknown))
    for name, value in values.items():
        if isinstance(value, dict) and len(value) > MAXIMUM_ENTRIES:
            raise ApiError(400, f"{name} has {len(value)} entries, and may have {MAXIMUM_ENTRIES}: leave it out.", "invalid_value", name)


def _unknown_parameter(name: str) -> ApiError:
    return ApiError(400, f"{name} is not a parameter that this proxy knows: leave it out.", "unsupported_parameter", name)


_UNIONS = {
    "prompt": "a text, token ids, or a list of one of them, and none may be empty",
    "stop": "a text or up to 4 texts, none of them empty or longer than 200 characters",
}
"""Parameters of several types, where the first of many complaints says little."""


def _refusal(error: ValidationError) -> ApiError:
    """The error for the first thing that is wrong with a request's values."""
    first: Any = error.errors(include_input=False, include_url=False)[0]
    name = printable(str(first["loc"][0])) if first["loc"] else None
    match first["type"]:
        case "missing":
            return ApiError(400, f"The parameter {name} is missing.", "missing_parameter", name)
    if name in _UNIONS:
        return ApiError(400, f"{name} must be {_UNIONS[name]}.", "invalid_value", name)
    where = printable(".".join(map(str, first["loc"])))
    message = first["msg"]
    return ApiError(400, f"{where}: {message[:1].lower()}{message[1:]}.", "invalid_value", name)
