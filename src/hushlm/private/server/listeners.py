"""Connections to the server: TLS, who is at the other end, and deadlines for those who connect and say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from hushlm.private.session.addresses import plain_host
from hushlm.private.session.engine_links import BUFFER_BYTES, LINK_PROTOCOL
from hushlm.private.session.messages import MAXIMUM_BODY_BYTES, printable

__all__ = [
    "HANDSHAKE_SECONDS",
    "HEADER_SECONDS",
    "ControlListener",
    "ControlLoop",
    "OnLink",
    "Peer",
    "peer_of",
    "plain_listener",
]

HANDSHAKE_SECONDS = 10.0
"""How long the TLS handshake of a connection may take."""

HEADER_SECONDS = 10.0
"""How long the request's header may take after that."""

GOODBYE_SECONDS = 1
"""How long the last words of sessions that were stopped, or have just ended, may take to leave."""


@dataclass(frozen=True)
class Peer:
    """Who sent a request.

    Attributes:
        address: IP address.
        name: common name in the certificate, or the fingerprint if it has none; limits are by name, so a renewed certificate keeps them.
        fingerprint: sha256 hex of the certificate.
    """

    address: str
    name: str
    fingerprint: str


def peer_of(scope: Scope) -> Peer:
    """Who sent a request that came over one of these connections."""
    address = plain_host((scope.get("client") or ("?",))[0])
    name, fingerprint = scope.get("state", {}).get("certificate", ("?", "?"))
    return Peer(address, name, fingerprint)


OnLink = Callable[[Peer, asyncio.StreamReader, asyncio.StreamWriter], None]
"""Takes a connection that is to carry an engine's link."""


class _Connection(H11Protocol):
    """One request a connection, so that one deadline is enough; the certificate is put where the application finds it.

    A connection that TLS names as a link's is given away before any HTTP.
    """

    def __init__(self, on_link: OnLink, **options: Any) -> None:
        super().__init__(**options)
        self._on_link = on_link

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        tls = transport.get_extra_info("ssl_object")
        certificate = _certificate(tls)
        if tls.selected_alpn_protocol() == LINK_PROTOCOL:
            self._give_away(transport, Peer(plain_host(transport.get_extra_info("peername")[0]), *certificate))
            return
        super().connection_made(transport)
        self.app_state = {**self.app_state, "certificate": certificate}
        self._deadline = self.loop.call_later(HEADER_SECONDS, self._late)

    def _give_away(self, transport: asyncio.Transport, peer: Peer) -> None:
        reader = asyncio.StreamReader(BUFFER_BYTES // 2, self.loop)
        protocol = asyncio.StreamReaderProtocol(reader, functools.partial(self._on_link, peer), self.loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)

    def _late(self) -> None:
        if self.cycle is None:
            self.transport.abort()


def _certificate(tls: ssl.SSLObject) -> tuple[str, str]:
    """The name and the fingerprint in the certificate of a verified peer."""
    encoded = tls.getpeercert(binary_form=True)
    assert encoded is not None, "the context demands a certificate"
    fingerprint = hashlib.sha256(encoded).hexdigest()
    # CPython's shape: a tuple of relative names, each a tuple of (kind, value) pairs.
    subject: Any = (tls.getpeercert() or {}).get("subject", ())
    names = [value for part in subject for kind, value in part if kind == "commonName"]
    return (printable(names[0]) if names and names[0] else fingerprint), fingerprint


class ControlLoop(asyncio.SelectorEventLoop):
    """Gives a TLS handshake less time than the minute of asyncio."""

    async def create_server(self, *arguments: Any, **options: Any) -> asyncio.Server:
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = HANDSHAKE_SECONDS
        return await super().create_server(*arguments, **options)


class ControlListener(uvicorn.Server):
    """HTTPS with mutual TLS.

    Args:
        application: answers the requests.
        tls: demands a certificate.
        on_link: takes the connections that are to carry an engine's link.
        on_ready: called when clients can connect.
        on_stop: called in the event loop at SIGTERM or SIGINT; sets `should_exit` when the server may end. A second signal ends it at once.
    """

    def __init__(
        self,
        application: ASGIApp,
        tls: ssl.SSLContext,
        on_link: OnLink,
        on_ready: Callable[[], None],
        on_stop: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        tls.set_alpn_protocols(["http/1.1", LINK_PROTOCOL])
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            proxy_headers=False,  # the log names the peer's own address: no header may change it
            server_header=False,
            headers=[("connection", "close")],
            loop=f"{__name__}:{ControlLoop.__name__}",
            http=functools.partial(_Connection, on_link),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            h11_max_incomplete_event_size=MAXIMUM_BODY_BYTES,
            timeout_graceful_shutdown=GOODBYE_SECONDS,
            ssl_context_factory=lambda _config, _default: tls,
        )
        super().__init__(config)
        self._on_ready, self._on_stop = on_ready, on_stop
        self._stopping: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._on_ready()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Until stopped. In the main thread SIGTERM ends the process with exit code 0, SIGINT with KeyboardInterrupt."""
        if threading.current_thread() is threading.main_thread():
            # uvicorn raises a signal that it took again at the end: to stop when asked to is exit code 0.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        super().run(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._captured_signals or self._loop is None:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        self._loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """Begin to stop, from within the event loop; again, it changes nothing."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._on_stop())


@contextlib.contextmanager
def plain_listener(application: ASGIApp, listener: socket.socket) -> Iterator[None]:
    """Serve an application over plain HTTP, in a thread of its own, for as long as the block lasts."""
    config = uvicorn.Config(application, log_config=None, access_log=False, ws="none", http="h11", lifespan="off", loop="asyncio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="hushlm-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(5)
