"""What client and server say to each other before any share moves; `handshake` compares it with what either runs.

Control channel: HTTPS with mutual TLS. The client posts one `SessionRequest`; the answer is either one error (status 4xx or
5xx, {"error": sentence}), or a stream of events, one JSON document a line, that lasts as long as the session: `queued` while it
waits for a worker, `accepted` when there is one, then `alive` at intervals, and `finished` or `failed` at the end. Closing the
connection gives the session up at either end, so a killed party is noticed at once, although the engine's own links would notice
only by their timeout.

Status 503 says that there is no place now, 429 that this client has used what it may: nothing has begun, and a client may ask again,
after as many seconds as a `retry-after` header names. 409, 410 and 501 say what is wrong with a prepared answer, see `BundleProblem`. After
any other refusal it would be refused again.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from hushlm.config import ModelShape
from hushlm.cost.network import Network
from hushlm.plan.protocol_settings import Transfers
from hushlm.private.program.description import PROTOCOL_VERSION, RevealPolicy
from hushlm.private.program.drafts import MOST_GUESSED

__all__ = [
    "ALIVE_SECONDS",
    "MAXIMUM_BODY_BYTES",
    "MOST_BUNDLES",
    "MOST_THREADS",
    "Accepted",
    "Alive",
    "BundleProblem",
    "BundleRefusedError",
    "Failed",
    "Finished",
    "Limits",
    "NetworkBetween",
    "Queued",
    "SessionError",
    "SessionEvent",
    "SessionKind",
    "SessionRequest",
    "UnaskableError",
    "printable",
    "read_event",
    "read_request",
    "shape_of",
]

MAXIMUM_BODY_BYTES = 16 * 1024
"""The longest request, and the longest event. A request is about 1.2 kB, most of it a certificate."""

ALIVE_SECONDS = 5.0
"""Time between two `alive` events."""

MAXIMUM_COUNT = 10_000_000


class SessionError(ValueError):
    """A session could not be opened, or broke; the message is one sentence for the user."""


class UnaskableError(SessionError):
    """The question itself cannot be asked; no session was opened and nothing was sent."""


class BundleProblem(enum.IntEnum):
    """Why a session cannot use the prepared answer that it names; the number is the HTTP status where that is known before it begins.

    None of them uses a prepared answer up.
    """

    BUSY = 409
    """Another session is using it."""
    GONE = 410
    """A side does not have it, or has used it: both drop theirs."""
    NONE_KEPT = 501
    """This server keeps no prepared answers: the client keeps its own for another day."""


class BundleRefusedError(SessionError):
    """The session could not use the prepared answer that it named, and nothing of the prompt was sent: another one may be taken."""

    def __init__(self, sentence: str, problem: BundleProblem) -> None:
        super().__init__(sentence)
        self.problem = problem


class _Message(BaseModel):
    # Strict and closed: what another version adds is refused, not ignored.
    model_config = ConfigDict(extra="forbid", frozen=True)


Certificate = Annotated[str, Field(min_length=1, max_length=4096)]
Count = Annotated[int, Field(ge=1, le=MAXIMUM_COUNT)]
BundleName = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
"""Identity of a prepared answer, in hexadecimal."""
MOST_BUNDLES = 256
"""Prepared answers that one client may keep for one program: a message names all of them."""
BundleNames = Annotated[tuple[BundleName, ...], Field(max_length=MOST_BUNDLES)]


Shape = Annotated[
    dict[Annotated[str, Field(max_length=40)], Annotated[float, Field(ge=-MAXIMUM_COUNT, le=MAXIMUM_COUNT)]], Field(max_length=40)
]
"""Sizes of a program: the fields of `ModelShape`, by name."""


def shape_of(shape: ModelShape) -> dict[str, float]:
    """The sizes as both parties' folders hold them; yes is 1."""
    return {name: float(size) for name, size in shape.to_dict().items()}


SessionKind = Literal["ask", "prepare"]
Guesses = Annotated[int, Field(ge=0, le=MOST_GUESSED)]
MOST_THREADS = 64
Threads = Annotated[int, Field(ge=1, le=MOST_THREADS)]


class NetworkBetween(_Message):
    """The network that client and server are taken to have between them: it decides between fewer bytes and fewer round trips alone.

    Attributes:
        round_trip_seconds: how long a byte and its answer take.
        bits_per_second: how much each direction carries.
    """

    round_trip_seconds: float = Field(ge=0, le=60)
    bits_per_second: float = Field(ge=1e3, le=1e13)

    @staticmethod
    def of(network: Network | None) -> NetworkBetween | None:
        """What a message says of a network."""
        if network is None:
            return None
        return NetworkBetween(round_trip_seconds=network.round_trip_seconds, bits_per_second=network.bits_per_second)

    def to_network(self) -> Network:
        return Network("named by the client", self.round_trip_seconds, self.bits_per_second)


class Limits(_Message):
    """What a server lets one session do.

    Attributes:
        new_tokens: how many tokens it may ask for at most.
        session_seconds: how long it may take; then the server ends it.
        reveal: most that a client learns of each step.
    """

    new_tokens: Count
    session_seconds: float = Field(gt=0, le=1e9)
    reveal: RevealPolicy


class SessionRequest(_Message):
    """What a client asks for. Nothing in it depends on the prompt but its length.

    Attributes:
        protocol_version: version of these messages.
        engine_version: name and version of the two-party engine.
        architecture: name of the model's architecture.
        shape: the program's sizes, by name.
        fingerprint: sha256 in hexadecimal of the program's whole description: architecture, shape, rewrites, engine settings, checkpoint.
        prompt_length: how many tokens the prompt has.
        new_tokens: how many tokens to generate.
        reveal: what the client learns of each step.
        engine_certificate: a certificate in PEM, made for this session.
        kind: "ask" computes an answer; "prepare" makes prepared answers for prompts and answers of these lengths.
        answers: how many "prepare" is to make.
        bundle: the prepared answer that "ask" uses up; None computes everything now.
        held: all prepared answers of this program that the client has; the server drops the others, which no session could use. None
            says nothing about them.
        draft: how many tokens each pass of the answers that "prepare" makes is to guess.
        network: for which the forms of an answer from prepared material are chosen, and how oblivious transfers are made; None takes the
            forms with the fewest bytes, and the transfers by `near`.
        near: whether the client calls the server at an address of its own machine: where no network is named, oblivious transfers are
            made as for loopback, and otherwise as for a wide-area network.
    """

    protocol_version: int = Field(ge=1, le=MAXIMUM_COUNT)
    engine_version: str = Field(min_length=1, max_length=100)
    architecture: str = Field(min_length=1, max_length=100)
    shape: Shape
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    prompt_length: Count
    new_tokens: Count
    reveal: RevealPolicy
    engine_certificate: Certificate
    kind: SessionKind
    answers: int = Field(ge=0, le=MOST_BUNDLES)
    bundle: BundleName | None
    held: BundleNames | None
    draft: Guesses
    network: NetworkBetween | None
    near: bool


class Queued(_Message):
    """All workers are busy; sent again every few seconds in place of `alive`, until a worker starts.

    Attributes:
        position: 1 is the next to get a worker.
    """

    event: Literal["queued"] = "queued"
    position: Count


class Accepted(_Message):
    """The server's side of the handshake; the client checks it as the server checked the request.

    Attributes:
        session: name of the session in the server's log.
        protocol_version, engine_version, architecture, shape, fingerprint: of the server, as in the request.
        prompt_length, new_tokens, reveal: of the request, as the server is going to run it.
        limits: of this server, for this client.
        link_token: by which the client's connections for the engines' links name this session, see `engine_links`.
        engine_certificate: a certificate in PEM, made for this session.
        kind, answers, bundle, draft, network, near: of the request, as the server is going to run it.
        threads: of each party's engine, as the server wishes; an answer from prepared material takes one where little is compared.
        transfers: how both engines make oblivious transfers, as the server finds by `hushlm.cost.prepared.session.session_transfers`.
        held: of the prepared answers that the request named, those that the server has too; the client drops the others.
    """

    event: Literal["accepted"] = "accepted"
    session: str = Field(max_length=64)
    protocol_version: int
    engine_version: str = Field(max_length=100)
    architecture: str = Field(max_length=100)
    shape: Shape
    fingerprint: str = Field(max_length=64)
    prompt_length: Count
    new_tokens: Count
    reveal: RevealPolicy
    limits: Limits
    link_token: str = Field(min_length=1, max_length=64)
    engine_certificate: Certificate
    kind: SessionKind
    answers: int = Field(ge=0, le=MOST_BUNDLES)
    bundle: BundleName | None
    held: BundleNames | None
    draft: Guesses
    network: NetworkBetween | None
    near: bool
    threads: Threads
    transfers: Transfers


class Alive(_Message):
    """The server is there and the session goes on."""

    event: Literal["alive"] = "alive"


class Finished(_Message):
    """The server's worker has done its part."""

    event: Literal["finished"] = "finished"


class Failed(_Message):
    """The session is over without an answer.

    Attributes:
        error: one sentence.
        bundle_gone: the session's prepared answer was gone, and nothing of the prompt was sent.
    """

    event: Literal["failed"] = "failed"
    error: str = Field(max_length=500)
    bundle_gone: bool = False


SessionEvent = Annotated[Queued | Accepted | Alive | Finished | Failed, Field(discriminator="event")]
_EVENTS: TypeAdapter[Queued | Accepted | Alive | Finished | Failed] = TypeAdapter(SessionEvent)


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


def read_event(line: str | bytes) -> Queued | Accepted | Alive | Finished | Failed:
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


def printable(text: str, limit: int = 100) -> str:
    """What a peer sent, fit for a terminal or a log: one line, no control characters, bounded."""
    return "".join(character if character.isprintable() else "?" for character in text[:limit])


def _first(error: ValidationError) -> str:
    first: Any = error.errors(include_input=False, include_url=False)[0]
    where = printable(".".join(str(part) for part in first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]}".rstrip(".")
