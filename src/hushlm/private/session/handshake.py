"""The handshake's checks, one for each side: whatever client and server must agree on, before any share moves."""

from __future__ import annotations

from typing import Literal

from hushlm.private.program.description import PROTOCOL_VERSION, ProgramDescription
from hushlm.private.session.messages import Accepted, Limits, SessionError, SessionRequest, printable, shape_of

__all__ = ["and_guesses", "check_accepted", "check_request"]


def check_request(request: SessionRequest, description: ProgramDescription, engine_version: str, limits: Limits) -> None:
    """Compare a request with what this server runs and allows.

    Args:
        request: a client's request; `read_request` has looked at its protocol version.
        description: the description of the server's program.
        engine_version: name and version of the server's engine.
        limits: what the server lets this client do.

    Raises:
        SessionError: the first mismatch, in one sentence.
    """
    _check_program(request, description, engine_version, "client")
    context = description.shape.context
    if (request.kind == "prepare") != (request.answers > 0) or (request.kind == "prepare" and request.bundle is not None):
        raise SessionError("The request asks to prepare answers without saying how many, or says so and asks for something else.")
    if request.draft and request.kind != "prepare":
        raise SessionError("Guesses belong to prepared answers: a session that asks takes those that its prepared answer was made with.")
    if request.prompt_length + request.new_tokens + request.draft > context:
        raise SessionError(
            f"A prompt of {request.prompt_length} tokens and an answer of {request.new_tokens}{and_guesses(request.draft)} exceed the "
            f"context of {context} tokens."
        )
    if request.reveal.kind == "topk" and request.reveal.top > description.shape.vocabulary:
        raise SessionError(f"The top {request.reveal.top} tokens were asked for, and the vocabulary has {description.shape.vocabulary}.")
    if request.reveal.candidates and (request.new_tokens > 1 or request.reveal.candidates[-1] >= description.shape.vocabulary):
        raise SessionError(
            f"Candidates are for one new token, not {request.new_tokens}, and must be token ids below {description.shape.vocabulary}."
        )
    if request.new_tokens > limits.new_tokens:
        raise SessionError(f"This server answers at most {limits.new_tokens} tokens a session, not {request.new_tokens}.")
    if not request.reveal.is_within(limits.reveal):
        raise SessionError(
            f"This server reveals at most {limits.reveal} of each step, not {request.reveal}: ask with --reveal {limits.reveal}."
        )


def check_accepted(accepted: Accepted, request: SessionRequest, description: ProgramDescription, engine_version: str) -> None:
    """Compare the server's answer with what this client runs and has asked for; nothing has been shared yet.

    Args:
        accepted: the server's answer.
        request: the request that it answers.
        description: the description of the client's program.
        engine_version: name and version of the client's engine.

    Raises:
        SessionError: the first mismatch, in one sentence.
    """
    if accepted.protocol_version != PROTOCOL_VERSION:
        raise SessionError(
            f"The server speaks protocol version {accepted.protocol_version}, this client version {PROTOCOL_VERSION}: "
            "install the same hushlm on both."
        )
    _check_program(accepted, description, engine_version, "server")
    if (accepted.prompt_length, accepted.new_tokens) != (request.prompt_length, request.new_tokens):
        raise SessionError(
            f"The server is about to compute {accepted.new_tokens} tokens after {accepted.prompt_length}, and {request.new_tokens} after "
            f"{request.prompt_length} were asked for: it does not keep the protocol."
        )
    if any(getattr(accepted, name) != getattr(request, name) for name in ("kind", "answers", "bundle", "draft", "network", "near")):
        raise SessionError("The server is about to do something else than it was asked for: it does not keep the protocol.")
    if accepted.reveal != request.reveal:
        raise SessionError(
            f"The server is about to reveal {accepted.reveal}, and {request.reveal} was asked for: it does not keep the protocol."
        )
    limits = accepted.limits
    if request.new_tokens > limits.new_tokens:
        raise SessionError(f"The server accepted {request.new_tokens} tokens and says that it allows {limits.new_tokens}: ask for fewer.")
    if not request.reveal.is_within(limits.reveal):
        raise SessionError(f"The server accepted to reveal {request.reveal} and says that it allows {limits.reveal}: ask for that.")


def _check_program(
    theirs: SessionRequest | Accepted, description: ProgramDescription, engine_version: str, peer: Literal["client", "server"]
) -> None:
    """Engine and program of the peer against our own, the plainest difference first."""
    own = "this server's" if peer == "client" else "this client's"
    if theirs.engine_version != engine_version:
        raise SessionError(f"The {peer}'s engine is {printable(theirs.engine_version)}, {own} {engine_version}: install the same on both.")
    same = "use the client/ folder of the export that the server runs."
    if theirs.architecture != description.architecture:
        raise SessionError(f"The {peer}'s architecture is {printable(theirs.architecture)}, {own} {description.architecture}: {same}")
    shape = shape_of(description.shape)
    for name in sorted(shape.keys() | theirs.shape.keys(), key=[*shape, *theirs.shape].index):
        if theirs.shape.get(name) != shape.get(name):
            raise SessionError(
                f"The {peer}'s model has {printable(name)} = {_size(theirs.shape.get(name))}, {own} {_size(shape.get(name))}: {same}"
            )
    if theirs.fingerprint != description.fingerprint:
        raise SessionError(f"The {peer}'s program is {printable(theirs.fingerprint[:12])}, {own} {description.fingerprint[:12]}: {same}")


def and_guesses(draft: int) -> str:
    """The part of a sentence on lengths that only guesses need."""
    return f", with {draft} guesses a pass," if draft else ""


def _size(value: float | None) -> str:
    return "no such size" if value is None else f"{value:.10g}"
