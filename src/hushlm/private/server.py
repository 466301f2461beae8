"""The server: a control channel over HTTPS with mutual TLS that opens one worker process a session (`hosting`).

The process that listens holds no weights and computes nothing; a worker holds the weights and one session's shares, and never
the server's long-term key. A worker is killed when its client's connection closes, when its time is up, or when the server
stops; when the server is killed the kernel closes the worker's pipe, and it ends itself.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hushlm.private.certificates import SERVER, load_keys, server_context
from hushlm.private.description import WEIGHTS_FILE, RevealPolicy, load_description
from hushlm.private.engine import engine_version
from hushlm.private.handshake import check_request
from hushlm.private.hosting import HostedSession, Hosting, error_response
from hushlm.private.session import MAXIMUM_BODY_BYTES, Limits, SessionError, parse_address, read_request

__all__ = ["PrivateServer", "ServerSettings"]

REQUEST_SECONDS = 10.0
"""For the body of a request to arrive."""

log = logging.getLogger("hushlm.server")


@dataclass(frozen=True)
class ServerSettings:
    """How a server behaves.

    Attributes:
        workers: sessions at a time; a further client is told to come back.
        new_tokens: most tokens a session may ask for; None leaves the context as the only limit.
        reveal: most that a client may learn of each step.
        start_seconds: for a worker to load the weights.
        connect_seconds: for the engine's link to a client to open.
        silent_seconds: how long a client's engine may be silent.
        session_seconds: longest session.
        drain_seconds: that sessions may go on after SIGTERM.
        once: stop after the first session.
    """

    workers: int = 1
    new_tokens: int | None = None
    reveal: RevealPolicy = RevealPolicy(kind="logits")
    start_seconds: float = 120.0
    connect_seconds: float = 30.0
    silent_seconds: float = 120.0
    session_seconds: float = 24 * 3600.0
    drain_seconds: float = 60.0
    once: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"A server needs at least one worker, not {self.workers}.")
        if self.new_tokens is not None and self.new_tokens < 1:
            raise ValueError(f"A session must be allowed at least one token, not {self.new_tokens}.")
        if min(self.start_seconds, self.connect_seconds, self.silent_seconds, self.session_seconds) <= 0 or self.drain_seconds < 0:
            raise ValueError("A server's times must be above 0 seconds.")


class PrivateServer:
    """Serves one exported model.

    Args:
        folder: the export's `server/`.
        listen: HOST:PORT; port 0 lets the system choose.
        keys: folder with authority.pem, server.pem and server.key.
        settings: limits and times.

    Raises:
        ValueError: one sentence: not an export, no weights, unusable keys, no engine, a port that is taken.
    """

    def __init__(self, folder: Path, listen: str, keys: Path, settings: ServerSettings = ServerSettings()) -> None:
        self.settings = settings
        self.description = load_description(folder)
        if not (folder / WEIGHTS_FILE).is_file():
            raise ValueError(f"{folder} holds no weights: a server needs the export's server/ folder.")
        self._hosting = Hosting(
            folder.absolute(),
            self.description,
            engine_version(),
            settings.start_seconds,
            settings.connect_seconds,
            settings.silent_seconds,
            Limits(
                new_tokens=settings.new_tokens or self.description.shape.context,
                session_seconds=settings.session_seconds,
                reveal=settings.reveal,
            ),
        )
        self._tls = server_context(load_keys(keys, SERVER))
        self._socket = _listen(*parse_address(listen))
        host, port = self._socket.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.running = 0
        self._uvicorn: _Uvicorn | None = None

    def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT, or with `once` until the first session has ended.

        Args:
            on_ready: called when clients can connect.
        """
        config = uvicorn.Config(
            self.application(),
            log_config=None,
            access_log=False,
            proxy_headers=False,  # the peer's address decides where its engine may listen: no header may change it
            server_header=False,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            h11_max_incomplete_event_size=MAXIMUM_BODY_BYTES,
            timeout_graceful_shutdown=int(self.settings.drain_seconds),
            ssl_context_factory=lambda _config, _default: self._tls,
        )
        self._uvicorn = _Uvicorn(config, on_ready)
        if threading.current_thread() is threading.main_thread():
            # uvicorn drains on SIGTERM and raises the signal again at the end: to stop when asked to is exit code 0.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        self._uvicorn.run(sockets=[self._socket])

    def close(self) -> None:
        """Give the port back; needed only where `run` is never called."""
        self._socket.close()

    def application(self) -> Starlette:
        """The control channel: `POST /sessions` and `GET /health`."""
        return Starlette(
            routes=[Route("/sessions", self._sessions, methods=["POST"]), Route("/health", self._health)],
            exception_handlers={HTTPException: _http_error, Exception: _internal_error},
        )

    async def _health(self, _request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "sessions": self.running, "workers": self.settings.workers})

    async def _sessions(self, request: Request) -> Response:
        peer = _plain(request.client.host) if request.client else "?"
        try:
            wanted = read_request(await asyncio.wait_for(_read_body(request), REQUEST_SECONDS))
            check_request(wanted, self.description, self._hosting.engine_version, self._hosting.limits, peer)
        except TimeoutError:
            return error_response(408, f"The request did not arrive within {REQUEST_SECONDS:.0f} s.")
        except SessionError as error:
            log.info("refused a request from %s: %s", peer, error)
            return error_response(400, str(error))
        # Nothing is awaited between the check and the count: two requests cannot take the same place.
        if self.running >= self.settings.workers:
            busy = "worker is" if self.settings.workers == 1 else f"{self.settings.workers} workers are"
            return error_response(503, f"This server's {busy} busy: try again later.")
        self.running += 1
        return HostedSession(self._hosting, wanted, _plain(request.scope["server"][0]), self._ended)

    def _ended(self) -> None:
        self.running -= 1
        if self.settings.once and self._uvicorn is not None:
            self._uvicorn.should_exit = True


class _Uvicorn(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


def _plain(host: str) -> str:
    """An IPv4 address that reached a listener for both families, as IPv4."""
    return host.removeprefix("::ffff:") if "." in host else host


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAXIMUM_BODY_BYTES:
            raise SessionError(f"The request is larger than {MAXIMUM_BODY_BYTES} bytes.")
    return bytes(body)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, f"This server has POST /sessions and GET /health: {error.detail}.")


async def _internal_error(_request: Request, _: Exception) -> Response:
    return error_response(500, "The server failed on an internal error: see its log.")


def _listen(host: str, port: int) -> socket.socket:
    """Raises ValueError: the address is not this machine's, or is taken."""
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(100)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise ValueError(
            f"The server cannot listen on {host}:{port}, {error.strerror or error}: choose another address with --listen."
        ) from error
    return listener
