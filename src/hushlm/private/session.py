"""What client and server say to each other before any share moves, and what they check.

Control channel: HTTPS with mutual TLS. The client posts one `SessionRequest`; the answer is either one error (status 4xx or
5xx, {"error": sentence}), or a stream of events, one JSON document a line, that lasts as long as the session: `accepted` first,
then `alive` at intervals, and `finished` or `failed` at the end. Closing the connection gives the session up at either end, so
a killed party is noticed at once, although the engine's own links would notice only by their timeout.
"""

from __future__ import annotations

import socket
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from hushlm.private.description import PROTOCOL_VERSION, ProgramDescription, RevealPolicy

__all__ = [
    "ALIVE_SECONDS",
    "MAXIMUM_BODY_BYTES",
    "Accepted",
    "Alive",
    "Failed",
    "Finished",
    "SessionError",
    "SessionEvent",
    "SessionRequest",
    "check_accepted",
    "check_request",
    "parse_address",
    "printable",
    "read_event",
    "read_request",
    "reserve_port",
]

MAXIMUM_BODY_BYTES = 16 * 1024
"""Of a request, and of one event: a request is about 1.2 kB, most of it a certificate."""

ALIVE_SECONDS = 5.0
"""Between two `alive` events."""

MAXIMUM_COUNT = 10_000_000


class SessionError(ValueError):
    """A session could not be opened, or broke; the message is one sentence for the user."""


class _Message(BaseModel):
    # Strict and closed: what another version adds is refused, not ignored.
    model_config = ConfigDict(extra="forbid", frozen=True)


Address = Annotated[str, Field(min_length=3, max_length=300)]
Certificate = Annotated[str, Field(min_length=1, max_length=4096)]


class SessionRequest(_Message):
    """What a client asks for. Nothing in it depends on the prompt but its length.

    Attributes:
        protocol_version: of these messages.
        engine_version: name and version of the two-party engine.
        fingerprint: of the program (sha256 hex of the whole description: architecture, shape, rewrites, engine settings, checkpoint).
        prompt_length: tokens.
        new_tokens: to be generated.
        reveal: what the client learns of each step.
        engine_address: HOST:PORT where the client's engine listens; HOST must be where the request comes from.
        engine_certificate: PEM, made for this session.
    """

    protocol_version: int = Field(ge=1, le=MAXIMUM_COUNT)
    engine_version: str = Field(min_length=1, max_length=100)
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    prompt_length: int = Field(ge=1, le=MAXIMUM_COUNT)
    new_tokens: int = Field(ge=1, le=MAXIMUM_COUNT)
    reveal: RevealPolicy
    engine_address: Address
    engine_certificate: Certificate


class Accepted(_Message):
    """First event: the server's side of the handshake; the client checks it as the server checked the request.

    Attributes:
        session: name of the session in the server's log.
        engine_address: HOST:PORT where the server's engine listens.
        engine_certificate: PEM, made for this session.
    """

    event: Literal["accepted"] = "accepted"
    session: str = Field(max_length=64)
    protocol_version: int
    engine_version: str = Field(max_length=100)
    fingerprint: str = Field(max_length=64)
    engine_address: Address
    engine_certificate: Certificate


class Alive(_Message):
    """The server is there and the session goes on."""

    event: Literal["alive"] = "alive"


class Finished(_Message):
    """The server's worker has done its part."""

    event: Literal["finished"] = "finished"


class Failed(_Message):
    """The session is over without an answer."""

    event: Literal["failed"] = "failed"
    error: str = Field(max_length=500)


SessionEvent = Annotated[Accepted | Alive | Finished | Failed, Field(discriminator="event")]
_EVENTS: TypeAdapter[Accepted | Alive | Finished | Failed] = TypeAdapter(SessionEvent)


def read_request(body: bytes) -> SessionRequest:
    """Read a request. The version is looked at first, because another version may have other fields.

    Raises:
        SessionError: one sentence, for anything that is not a request of this protocol version.
    """
    try:
        values = from_json(body)
    except ValueError as error:
        raise SessionError("The request is not a JSON document.") from error
    if not isinstance(values, dict):
        raise SessionError("The request is not a JSON object.")
    version = values.get("protocol_version")
    if isinstance(version, int) and version != PROTOCOL_VERSION:
        raise SessionError(
            f"The client speaks protocol version {str(version)[:20]}, this server version {PROTOCOL_VERSION}: "
            "install the same hushlm on both."
        )
    try:
        # From the text, not from `values`: strict mode takes JSON's own types only, so "3" is not 3.
        return SessionRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise SessionError(f"The request is not valid: {_first(error)}.") from error


def read_event(line: str | bytes) -> Accepted | Alive | Finished | Failed:
    """Read one line of the server's stream.

    Raises:
        SessionError: if it is not an event of this protocol.
    """
    try:
        return _EVENTS.validate_json(line, strict=True)
    except ValidationError as error:
        raise SessionError(
            "The server sent something that is not an event of this protocol: install the same hushlm on both sides."
        ) from error


def check_request(request: SessionRequest, description: ProgramDescription, engine_version: str, peer: str) -> None:
    """Compare a request with what this server runs.

    Args:
        request: from a client.
        description: of the server's program.
        engine_version: the server's.
        peer: IP address that the request came from.

    Raises:
        SessionError: the first mismatch, in one sentence.
    """
    if request.engine_version != engine_version:
        raise SessionError(
            f"The client's engine is {printable(request.engine_version)}, this server's {engine_version}: install the same on both."
        )
    if request.fingerprint != description.fingerprint:
        raise SessionError(
            f"The client's program is {request.fingerprint[:12]}, this server's {description.fingerprint[:12]}: "
            "use the client/ folder of the export that the server runs."
        )
    context = description.shape.context
    if request.prompt_length + request.new_tokens > context:
        raise SessionError(
            f"A prompt of {request.prompt_length} tokens and an answer of {request.new_tokens} exceed the context of {context} tokens."
        )
    if request.reveal.kind == "topk" and request.reveal.top > description.shape.vocabulary:
        raise SessionError(f"The top {request.reveal.top} tokens were asked for, and the vocabulary has {description.shape.vocabulary}.")
    host, port = parse_address(request.engine_address)
    # Or a client could make this server's engine connect to any machine that the server can reach.
    if host != peer:
        raise SessionError(f"The client's engine must listen where its request comes from, which is {peer} and not {printable(host)}.")
    if port < 1024:
        raise SessionError(f"The client's engine must listen on a port from 1024 on, not {port}.")


def check_accepted(accepted: Accepted, description: ProgramDescription, engine_version: str) -> None:
    """Compare the server's answer with what this client runs; nothing has been shared yet.

    Raises:
        SessionError: the first mismatch, in one sentence.
    """
    if accepted.protocol_version != PROTOCOL_VERSION:
        raise SessionError(
            f"The server speaks protocol version {accepted.protocol_version}, this client version {PROTOCOL_VERSION}: "
            "install the same hushlm on both."
        )
    if accepted.engine_version != engine_version:
        raise SessionError(
            f"The server's engine is {printable(accepted.engine_version)}, this client's {engine_version}: install the same on both."
        )
    if accepted.fingerprint != description.fingerprint:
        raise SessionError(
            f"The server's program is {printable(accepted.fingerprint[:12])}, this client's {description.fingerprint[:12]}: "
            "use the client/ folder of the export that the server runs."
        )
    parse_address(accepted.engine_address)


def parse_address(text: str) -> tuple[str, int]:
    """HOST:PORT; an IPv6 address stands in brackets.

    Raises:
        SessionError: if it is anything else.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    numbered = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
    if not (host and colon and numbered and host.isprintable() and " " not in host):
        raise SessionError(f"An address is written HOST:PORT, for example 127.0.0.1:9000, not {printable(text)!r}.")
    return host, int(port)


def reserve_port(host: str) -> tuple[socket.socket, int]:
    """A free port of `host`, kept from others until the socket is closed; a listener with SO_REUSEADDR may be opened on it meanwhile.

    Raises:
        SessionError: if `host` is no address of this machine.
    """
    reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reservation.bind((host, 0))
    except OSError as error:
        reservation.close()
        raise SessionError(
            f"The engine cannot listen on {host}: {error.strerror or error}; give an IPv4 address of this machine."
        ) from error
    return reservation, reservation.getsockname()[1]


def printable(text: str, limit: int = 100) -> str:
    """What a peer sent, fit for a terminal or a log: one line, no control characters, bounded."""
    return "".join(character if character.isprintable() else "?" for character in text[:limit])


def _first(error: ValidationError) -> str:
    first: Any = error.errors(include_input=False, include_url=False)[0]
    where = printable(".".join(str(part) for part in first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]}".rstrip(".")
