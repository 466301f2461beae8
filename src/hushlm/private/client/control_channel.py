"""The client's connections to the server: the control channel, with the server's events, and those that carry the engines' links."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx

from hushlm.private.keys.certificates import client_context, load_keys
from hushlm.private.session.addresses import format_address, is_this_machine, parse_address
from hushlm.private.session.engine_links import BUFFER_BYTES, LINK_PROTOCOL, LinkAnswer, LinkRequest, Role, Stream, bounded
from hushlm.private.session.messages import (
    MAXIMUM_BODY_BYTES,
    Accepted,
    BundleProblem,
    BundleRefusedError,
    Failed,
    Finished,
    Queued,
    SessionError,
    SessionEvent,
    SessionRequest,
    printable,
    read_event,
)

__all__ = ["ControlChannel", "ServerEvents", "UnavailableError", "session_failure"]

NO_PLACE = (429, 503)
"""Status codes of a server that has no place now, or none for this client."""


class UnavailableError(SessionError):
    """There is no server, or it has no place: nothing has begun, and asking again is safe.

    Attributes:
        wished_seconds: how long the server wishes to be left alone before it is asked again; None if it said nothing.
    """

    def __init__(self, sentence: str, wished_seconds: float | None = None) -> None:
        super().__init__(sentence)
        self.wished_seconds = wished_seconds


class ControlChannel:
    """Opens sessions at one server.

    Args:
        server: HOST:PORT of the server.
        keys: folder with authority.pem and this client's .pem and .key.
        name: name of this client's files there, without .pem and .key.
        connect_seconds: how long the connection may take to open.
        alive_seconds: how long the server may be silent.

    Raises:
        ValueError: one sentence: unusable keys, or a malformed address.
    """

    def __init__(self, server: str, keys: Path, name: str, connect_seconds: float, alive_seconds: float) -> None:
        self._server, self._keys = server, keys
        self._host, self._port = parse_address(server)
        self._connect_seconds, self._alive_seconds = connect_seconds, alive_seconds
        files = load_keys(keys, name)
        self._context, self._link_context = client_context(files), client_context(files)
        self._link_context.set_alpn_protocols([LINK_PROTOCOL])

    @property
    def near(self) -> bool:
        """Whether the server's address is one of this machine."""
        return is_this_machine(self._host)

    async def open(self, stack: contextlib.AsyncExitStack, request: SessionRequest) -> ServerEvents:
        """Post a request; the connection stays open until `stack` is left.

        Raises:
            UnavailableError: if there is no server, or it has no place.
            SessionError: if it is the wrong server, or one that refuses this request.
        """
        timeout = httpx.Timeout(self._alive_seconds, connect=self._connect_seconds)
        # trust_env=False: no proxy of the environment gets to see a session.
        http = await stack.enter_async_context(httpx.AsyncClient(verify=self._context, timeout=timeout, trust_env=False))
        try:
            url = f"https://{format_address(self._host, self._port)}/sessions"
            response = await stack.enter_async_context(http.stream("POST", url, content=request.model_dump_json()))
        # An alert that comes while the request is being written is not wrapped by the HTTP library.
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            unanswered = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) and not any(
                isinstance(cause, ssl.SSLError) for cause in _causes(error)
            )
            raise (UnavailableError if unanswered else SessionError)(self._unreachable(error)) from error
        server = ServerEvents(response)
        if response.status_code != 200:
            sentence = f"The server at {self._server} refused: {await server.refusal()}"
            if response.status_code in NO_PLACE:
                raise UnavailableError(sentence, _seconds(response.headers.get("retry-after", "")))
            if response.status_code in set(BundleProblem):
                raise BundleRefusedError(sentence, BundleProblem(response.status_code))
            raise SessionError(sentence)
        return server

    async def open_link(self, token: str, caller: Role) -> Stream:
        """Open a connection that carries one of a session's links; the caller closes it.

        Args:
            token: of the session.
            caller: whose engine opens that link.

        Raises:
            SessionError: the connection could not be opened, or the server did not take it.
        """
        writer: asyncio.StreamWriter | None = None
        joined = False
        try:
            async with asyncio.timeout(self._connect_seconds):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, limit=BUFFER_BYTES // 2, ssl=self._link_context, server_hostname=self._host
                )
                writer.write(LinkRequest(token=token, caller=caller).model_dump_json().encode() + b"\n")
                answer = LinkAnswer.model_validate_json(await reader.readline(), strict=True)
            joined = answer.error is None
        except TimeoutError:
            raise SessionError(f"{self._no_link()}: it did not answer within {self._connect_seconds:.0f} s.") from None
        except (OSError, ValueError) as error:
            raise SessionError(f"{self._no_link()}: it was stopped or killed, or the network broke.") from error
        finally:
            if writer is not None and not joined:
                writer.transport.abort()
        if answer.error is not None:
            raise SessionError(f"{self._no_link()}: {printable(answer.error, 300)}")
        return Stream(reader, bounded(writer))

    def _no_link(self) -> str:
        return f"The server at {self._server} accepted the session, and then no connection for its engine"

    def _unreachable(self, error: Exception) -> str:
        causes = list(_causes(error))
        if refusal := next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None):
            return (
                f"The server at {self._server} is not one that {self._keys}/authority.pem vouches for under this name "
                f"({refusal.verify_message.rstrip('.')}): check the address and the keys."
            )
        if isinstance(error, httpx.ConnectError) and any(isinstance(cause, ssl.SSLError) for cause in causes):
            return f"What answers at {self._server} does not speak TLS as hushlm does: check the address."
        if isinstance(error, httpx.ConnectError | httpx.InvalidURL):
            return f"No server can be reached at {self._server}: check the address, and that `hushlm serve` runs there."
        if isinstance(error, httpx.ConnectTimeout):
            return f"The server at {self._server} did not answer within {self._connect_seconds:.0f} s."
        if isinstance(error, httpx.TimeoutException):
            return f"The server at {self._server} did not answer the request within {self._alive_seconds:.0f} s."
        return (
            f"The server at {self._server} ended the connection without an answer: it does not accept the certificate in {self._keys}, "
            "or is no hushlm server."
        )

    def broken(self, error: httpx.HTTPError | ssl.SSLError) -> str:
        """The sentence for a connection that broke during a session."""
        if isinstance(error, httpx.TimeoutException):
            return f"The server at {self._server} has been silent for {self._alive_seconds:.0f} s, so the session was given up."
        return f"The server at {self._server} closed the session: it was stopped or killed, or the network broke."


class ServerEvents:
    """The server's stream of events, read line by line with bounded memory."""

    def __init__(self, response: httpx.Response) -> None:
        self._chunks = response.aiter_bytes()
        self._buffer = bytearray()

    async def next(self) -> SessionEvent:
        """The next event.

        Raises:
            SessionError: if the stream has ended, or holds something else than an event of this protocol.
        """
        while b"\n" not in self._buffer:
            try:
                self._buffer += await anext(self._chunks)
            except StopAsyncIteration:
                raise SessionError("The server ended the session without a word.") from None
            if len(self._buffer) > MAXIMUM_BODY_BYTES:
                raise SessionError(
                    f"The server sent more than {MAXIMUM_BODY_BYTES} bytes in one piece, which is no event of this protocol."
                )
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return read_event(line)

    async def place(self, seconds: float) -> Queued | Accepted:
        """The next word on whether there is a worker; `Queued` comes every few seconds.

        Raises:
            SessionError: the session failed instead, or there was no such word in that time.
        """
        try:
            async with asyncio.timeout(seconds):
                while not isinstance(event := await self.next(), Queued | Accepted):
                    if isinstance(event, Failed | Finished):
                        raise session_failure(event)
        except TimeoutError:
            raise SessionError(f"The server's worker was not ready within {seconds:.0f} s.") from None
        return event

    async def end(self) -> Failed | Finished:
        """Wait for the last event."""
        while not isinstance(event := await self.next(), Failed | Finished):
            pass
        return event

    async def refusal(self) -> str:
        """The sentence of an error response."""
        body = bytearray()
        async for chunk in self._chunks:
            body += chunk
            if len(body) > MAXIMUM_BODY_BYTES:
                break
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return printable(str(httpx.Response(200, content=bytes(body)).json()["error"]), 500)
        return "it gave no reason."


def session_failure(event: Failed | Finished) -> SessionError:
    """The error for a session that the server ended before the answer was complete."""
    if isinstance(event, Finished):
        return SessionError("The server finished before the answer was complete.")
    sentence = printable(event.error, 500)
    return BundleRefusedError(sentence, BundleProblem.GONE) if event.bundle_gone else SessionError(sentence)


def _seconds(text: str) -> float | None:
    """The seconds of a `retry-after` header. A date, which is its other form, counts as no header."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
