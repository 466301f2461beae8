"""The server: a control channel over HTTPS with mutual TLS that opens one worker process a session (`server_session`).

The process that listens holds no weights and computes nothing; a worker holds the weights and one session's shares, and never
the server's long-term key. A worker is killed when its client's connection closes, when its time is up, or when the server
stops; when the server is killed the kernel closes the worker's pipe, and it ends itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import make_asgi_app
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from hushlm.files import check_writable
from hushlm.private.engine import engine_version
from hushlm.private.keys.certificates import SERVER, load_keys, server_context
from hushlm.private.program.description import WEIGHTS_FILE, RevealPolicy, load_description
from hushlm.private.server.admission import Admission, ClientLimits, RefusedError
from hushlm.private.server.link_desk import LinkDesk
from hushlm.private.server.listeners import ControlListener, Peer, peer_of, plain_listener
from hushlm.private.server.logs import log
from hushlm.private.server.metrics import ServerMetrics
from hushlm.private.server.prepared_shelf import PreparedShelf, PrepareSettings
from hushlm.private.server.server_session import ServedModel, ServerSession, error_response
from hushlm.private.session.addresses import listen, listener_address, parse_address
from hushlm.private.session.handshake import check_request
from hushlm.private.session.messages import MAXIMUM_BODY_BYTES, MOST_THREADS, Limits, SessionError, SessionRequest, read_request

__all__ = ["PrivateServer", "ServerSettings"]

REQUEST_SECONDS = 10.0
"""How long the body of a request may take to arrive."""

END_SECONDS = 5.0
"""How long the workers of stopped sessions may take to end."""


@dataclass(frozen=True)
class ServerSettings:
    """How a server behaves.

    Attributes:
        workers: how many sessions may run at a time.
        queue: how many sessions may wait for a worker; a further client is told to come back.
        new_tokens: how many tokens a session may ask for at most; None leaves the context as the only limit.
        reveal: most that a client may learn of each step.
        client: what one client may use.
        start_seconds: how long a worker may take to load the weights.
        connect_seconds: how long the engine's link to a client may take to open.
        silent_seconds: how long a client's engine may be silent.
        session_seconds: how long a session may take.
        drain_seconds: how long sessions may go on after SIGTERM.
        once: whether the server stops after its first session.
        prepare: whether and how many answers are prepared.
        engine_threads: of each session's engine, at both parties; None takes what suits the kind of session.
    """

    workers: int = 1
    queue: int = 8
    new_tokens: int | None = None
    reveal: RevealPolicy = RevealPolicy()
    client: ClientLimits = field(default_factory=ClientLimits)
    start_seconds: float = 120.0
    connect_seconds: float = 30.0
    silent_seconds: float = 120.0
    session_seconds: float = 24 * 3600.0
    drain_seconds: float = 60.0
    once: bool = False
    prepare: PrepareSettings = PrepareSettings()
    engine_threads: int | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"A server needs at least one worker, not {self.workers}.")
        if self.queue < 0:
            raise ValueError(f"A queue has room for 0 sessions or more, not {self.queue}.")
        if self.new_tokens is not None and self.new_tokens < 1:
            raise ValueError(f"A session must be allowed at least one token, not {self.new_tokens}.")
        if min(self.start_seconds, self.connect_seconds, self.silent_seconds, self.session_seconds) <= 0 or self.drain_seconds < 0:
            raise ValueError("A server's times must be above 0 seconds.")
        if self.engine_threads is not None and not 1 <= self.engine_threads <= MOST_THREADS:
            raise ValueError(f"An engine has 1 to {MOST_THREADS} threads, not {self.engine_threads}.")


class PrivateServer:
    """Serves one exported model.

    Args:
        folder: the export's `server/` folder.
        address: HOST:PORT to listen on; port 0 lets the system choose.
        keys: folder with authority.pem, server.pem and server.key.
        settings: limits and times.
        metrics: HOST:PORT for metrics and health over plain HTTP, to be reached from this machine or a trusted network alone; None has no
            such listener.

    Raises:
        ValueError: one sentence: not an export, no weights, unusable keys, no engine, a port that is taken.
    """

    def __init__(
        self, folder: Path, address: str, keys: Path, settings: ServerSettings = ServerSettings(), metrics: str | None = None
    ) -> None:
        self.settings = settings
        self.description = load_description(folder)
        if not (folder / WEIGHTS_FILE).is_file():
            raise ValueError(f"{folder} holds no weights: a server needs the export's server/ folder.")
        self._model = ServedModel(
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
            settings.engine_threads,
        )
        self._admission = Admission(settings.workers, settings.queue, settings.client, preparations=settings.prepare.sessions)
        self._metrics = ServerMetrics(settings.workers, lambda: self._admission.running, lambda: self._admission.waiting)
        if settings.prepare.folder is not None:
            check_writable(settings.prepare.folder)
        self._shelf = PreparedShelf(settings.prepare, self.description, self._metrics)
        tls = server_context(load_keys(keys, SERVER))
        self._socket = listen(*parse_address(address), "--listen")
        self.address = listener_address(self._socket)
        self._plain_socket = None
        if metrics is not None:
            try:
                self._plain_socket = listen(*parse_address(metrics), "--metrics")
            except ValueError:
                self._socket.close()
                raise
        self.metrics_address = None if self._plain_socket is None else listener_address(self._plain_socket)
        self._desk = LinkDesk()
        self._listener = ControlListener(self.application(), tls, self._desk.receive, self._ready, self._stop)
        self._on_ready: Callable[[], None] = lambda: None

    @property
    def running(self) -> int:
        """How many sessions have a worker."""
        return self._admission.running

    def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT, or with `once` until the first session has ended.

        Args:
            on_ready: called when clients can connect.
        """
        self._on_ready = on_ready
        with contextlib.ExitStack() as stack:
            if self._plain_socket is not None:
                stack.enter_context(plain_listener(self._plain_application(), self._plain_socket))
            stack.callback(gc.unfreeze)  # what `_ready` has frozen may be another program's as well
            self._listener.run([self._socket])

    def close(self) -> None:
        """Give the ports back; needed only where `run` is never called."""
        self._socket.close()
        if self._plain_socket is not None:
            self._plain_socket.close()

    def application(self) -> Starlette:
        """The control channel: `POST /sessions`, `GET /health` (the server is alive) and `GET /ready` (it takes a session now)."""
        return Starlette(
            routes=[Route("/sessions", self._sessions, methods=["POST"]), *self._probes()],
            exception_handlers={HTTPException: _http_error, Exception: _internal_error},
        )

    def _plain_application(self) -> Starlette:
        return Starlette(routes=[*self._probes(), Mount("/metrics", make_asgi_app(self._metrics.registry))])

    def _probes(self) -> list[Route]:
        return [Route("/health", self._health), Route("/ready", self._readiness)]

    async def _health(self, _request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "sessions": self.running, "workers": self.settings.workers})

    async def _readiness(self, _request: Request) -> JSONResponse:
        places = self._admission
        full = places.running >= places.workers and places.questions_waiting >= places.queue
        ready = not (places.closed or full)
        state = "stopping" if places.closed else "full" if full else "ready"
        return JSONResponse({"status": state, "sessions": places.running, "queue": places.waiting}, 200 if ready else 503)

    async def _sessions(self, request: Request) -> Response:
        peer = peer_of(request.scope)
        try:
            wanted = read_request(await asyncio.wait_for(_read_body(request), REQUEST_SECONDS))
            return await self._admit(wanted, peer)
        except ClientDisconnect:
            return self._refuse(peer, RefusedError("The client went away before its request had arrived.", "late", 400))
        except TimeoutError:
            return self._refuse(peer, RefusedError(f"The request did not arrive within {REQUEST_SECONDS:.0f} s.", "late", 408))
        except RefusedError as refusal:
            return self._refuse(peer, refusal)
        except SessionError as error:
            return self._refuse(peer, RefusedError(str(error), "invalid", 400))

    async def _admit(self, wanted: SessionRequest, peer: Peer) -> Response:
        check_request(wanted, self.description, self._model.engine_version, self._model.limits)
        # In a thread: what is dropped there is overwritten first, which takes a while.
        await asyncio.to_thread(self._shelf.admit, peer.name, wanted)
        preparation = wanted.kind == "prepare"
        ticket = self._admission.enter(peer.name, 0 if preparation else wanted.new_tokens, preparation)
        try:
            self._shelf.begin(peer.name, wanted)
        except RefusedError:
            ticket.leave(0)
            raise
        ticket.on_end = self._ended
        return ServerSession(self._model, wanted, peer, ticket, self._metrics, self._shelf, self._desk)

    def _refuse(self, peer: Peer, refusal: RefusedError) -> Response:
        log.info("refused", client=peer.name, address=peer.address, reason=refusal.reason, error=str(refusal))
        self._metrics.refused.labels(refusal.reason).inc()
        return error_response(refusal.status, str(refusal), refusal.retry_seconds)

    def _ended(self) -> None:
        if self.settings.once:
            self._listener.stop()

    def _ready(self) -> None:
        # What is here now stays: with it out of the way, collecting after a session takes a millisecond or two.
        gc.collect()
        gc.freeze()
        log.info(
            "serving",
            address=self.address,
            metrics=self.metrics_address,
            architecture=self.description.architecture,
            program=self.description.fingerprint[:12],
            workers=self.settings.workers,
        )
        self._on_ready()

    async def _stop(self) -> None:
        """Take no new sessions, let those that run finish within their time, and end."""
        self._admission.close()
        log.info("stopping", sessions=self.running, seconds=self.settings.drain_seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._admission.idle(), self.settings.drain_seconds)
        self._admission.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._admission.idle(), END_SECONDS)
        self._listener.should_exit = True


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAXIMUM_BODY_BYTES:
            raise SessionError(f"The request is larger than {MAXIMUM_BODY_BYTES} bytes.")
    return bytes(body)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, f"This server has POST /sessions, GET /health and GET /ready: {error.detail}.")


async def _internal_error(_request: Request, _: Exception) -> Response:
    return error_response(500, "The server failed on an internal error: see its log.")
