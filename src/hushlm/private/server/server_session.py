"""One session at the server: the response to the request that opened it, with a worker process that lives exactly as long."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from hushlm.cost.prepared.session import answer_plans, session_settings
from hushlm.plan.protocol_settings import Transfers
from hushlm.private.program.description import PROTOCOL_VERSION, ProgramDescription
from hushlm.private.server.admission import RefusedError, Ticket
from hushlm.private.server.link_desk import LinkDesk
from hushlm.private.server.listeners import Peer
from hushlm.private.server.logs import log
from hushlm.private.server.metrics import ServerMetrics
from hushlm.private.server.prepared_shelf import PreparedShelf
from hushlm.private.server.session_counters import SessionCounters
from hushlm.private.session.engine_links import EngineLinks
from hushlm.private.session.messages import (
    ALIVE_SECONDS,
    Accepted,
    Alive,
    Failed,
    Finished,
    Limits,
    Queued,
    SessionKind,
    SessionRequest,
    shape_of,
)
from hushlm.private.session.process import Order, PeerOrder, WorkerDiedError, WorkerEvent, WorkerProcess, start_worker
from hushlm.processors import processors

__all__ = ["ServedModel", "ServerSession", "error_response"]

PREPARING_THREADS = 16
"""Most threads of a preparation, unless the server's owner says otherwise: a client of few processors has as many."""

SHOWN_KINDS = ("link", "peer", "unfit")
"""Kinds of failures whose sentences name nothing of this machine: the client sees them."""


@dataclass(frozen=True)
class ServedModel:
    """The model that a server offers, with what all of its sessions share.

    Attributes:
        folder: the export's `server/` folder.
        description: the program's description, from that folder.
        engine_version: name and version of this machine's engine.
        start_seconds: how long a worker may take to load the weights.
        connect_seconds: how long the engine's link to the client may take to open.
        silent_seconds: how long the client's engine may be silent.
        limits: what one session may use.
        engine_threads: of each session's engine at both parties; None takes what suits the kind of session.
    """

    folder: Path
    description: ProgramDescription
    engine_version: str
    start_seconds: float
    connect_seconds: float
    silent_seconds: float
    limits: Limits
    engine_threads: int | None = None

    def threads(self, kind: SessionKind) -> int:
        """Of a session's engine. What prepares only multiplies, which all processors do together; every thread of what answers makes
        stocks of oblivious transfers first."""
        if self.engine_threads is not None:
            return self.engine_threads
        return min(processors(), PREPARING_THREADS) if kind == "prepare" else self.description.engine.threads

    def transfers(self, wanted: SessionRequest) -> Transfers:
        """How the engines of the session that a client asks for make oblivious transfers; what prepares takes none."""
        if wanted.kind == "prepare":
            return self.description.engine.transfers
        described, network = self.description, None if wanted.network is None else wanted.network.to_network()
        reveal = wanted.reveal.operation(described.shape.vocabulary)
        sizes = (described.parsed_architecture, described.shape, wanted.prompt_length, wanted.new_tokens)
        settings = replace(described.engine, threads=self.threads(wanted.kind))
        plans = answer_plans(*sizes, reveal, described.rewrites)
        return session_settings(plans, settings, network, wanted.bundle is not None, wanted.near).transfers


class _ClientGoneError(Exception):
    """The client closed its connection."""


class _FailedError(Exception):
    """The session ends with a sentence for the client."""


class _BundleGoneError(Exception):
    """The session's prepared answer is gone; a sentence for the client."""


class ServerSession(Response):
    """One session, from the queue to the end of its worker.

    Args:
        model: what the server offers.
        wanted: the request, which was checked already.
        peer: who asked.
        ticket: the session's place, which is given back at the end.
        metrics: the server's counters.
        shelf: the server's prepared answers.
        desk: brings the client's connections for the engine's links.
    """

    def __init__(
        self,
        model: ServedModel,
        wanted: SessionRequest,
        peer: Peer,
        ticket: Ticket,
        metrics: ServerMetrics,
        shelf: PreparedShelf,
        desk: LinkDesk,
    ) -> None:
        self.background = None
        self._shelf = shelf
        self._model, self._wanted, self._peer, self._ticket, self._metrics = model, wanted, peer, ticket, metrics
        self._desk, self._link_token = desk, ""
        self._transfers: Transfers = "ferret"
        self._name = secrets.token_hex(4)
        self._log = log.bind(session=self._name)
        self._over = False
        self._counters = SessionCounters(metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted, peer, start = self._wanted, self._peer, time.monotonic()
        self._log.info(
            "session",
            client=peer.name,
            certificate=peer.fingerprint[:16],
            address=peer.address,
            prompt_tokens=wanted.prompt_length,
            new_tokens=wanted.new_tokens,
            reveal=str(wanted.reveal),
            **({"prepare": wanted.answers} if wanted.kind == "prepare" else {"prepared": wanted.bundle is not None}),
        )
        outcome, error = "stopped", None
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch_client(receive))
                work = group.create_task(self._serve(send))
                self._ticket.on_stop = work.cancel
                # Not `await work`: its cancellation is the server's stop, and this task's own is another matter.
                await asyncio.wait({work})
                watch.cancel()
                if not work.cancelled():
                    outcome, error = await work
        except* (_ClientGoneError, OSError):
            outcome = "given_up"
        finally:
            self._shelf.end(peer.name, wanted)
            asked = 0 if wanted.kind == "prepare" else wanted.new_tokens
            self._ticket.leave(self._counters.charged(asked, outcome == "finished"))
            self._metrics.sessions.labels(outcome).inc()
            said = {} if error is None else {"error": error}
            seconds, moved = round(time.monotonic() - start, 3), self._counters.traffic
            self._log.info(
                "session ended",
                outcome=outcome,
                **said,
                seconds=seconds,
                tokens=self._counters.tokens,
                **({"made": self._counters.prepared} if wanted.kind == "prepare" else {}),
                received_bytes=moved.received_bytes,
                sent_bytes=moved.sent_bytes,
            )

    async def _watch_client(self, receive: Receive) -> None:
        """Raises: _ClientGoneError, when the connection closes before the session is over."""
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self._over:
            raise _ClientGoneError

    async def _serve(self, send: Send) -> tuple[str, str | None]:
        """Wait for a place, run the worker, and tell the client how it goes. Returns: the outcome, and why it failed."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/x-ndjson")]})
        last: Failed | Finished = Finished()
        try:
            await self._wait(send)
            if self._wanted.kind == "prepare":
                self._shelf.check_room(self._peer.name, self._wanted)  # others may have filled it meanwhile
            with self._metrics.seconds.time():
                last = await self._run(send)
        except RefusedError as refusal:
            self._metrics.refused.labels(refusal.reason).inc()
            last = Failed(error=str(refusal))
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await self._end(send, Failed(error="The server was stopped."))
            raise
        await self._end(send, last)
        return (last.event, None) if isinstance(last, Finished) else (last.event, last.error)

    async def _wait(self, send: Send) -> None:
        """Until there is a worker.

        Raises:
            RefusedError: the server stops.
        """
        with self._metrics.queue_seconds.time():
            while position := self._ticket.position:
                await _send_line(send, Queued(position=position))
                await self._ticket.wait(ALIVE_SECONDS)

    async def _run(self, send: Send) -> Finished | Failed:
        """Run the worker from its start to its end. Returns: the last words for the client."""
        limit = self._model.limits.session_seconds
        if self._wanted.kind == "ask":
            self._metrics.tokens.labels("prompt").inc(self._wanted.prompt_length)
        async with contextlib.AsyncExitStack() as stack:
            try:
                worker, scratch = await stack.enter_async_context(start_worker())
                expected = self._desk.session(self._peer.fingerprint, self._model.connect_seconds)
                self._link_token, links = await stack.enter_async_context(expected)
            except OSError as error:
                self._log.error("no worker could be started", error=str(error))
                return Failed(error="The server could not start a worker for this session: see the server's log.")
            # Pricing both kinds takes some milliseconds, more for a long answer.
            self._transfers = await asyncio.to_thread(self._model.transfers, self._wanted)
            self._order(worker, scratch, links)
            self._ticket.on_yield = worker.stop_soon
            if self._ticket.yielding:
                worker.stop_soon()
            try:
                async with asyncio.timeout(limit):
                    await self._follow(worker, send)
            except TimeoutError:
                return Failed(error=f"The session took longer than the {limit:.0f} s that this server allows.")
            except _BundleGoneError as error:
                return Failed(error=str(error)[:500], bundle_gone=True)
            except (_FailedError, WorkerDiedError) as error:
                self._log_tail(scratch / "worker.log")
                return Failed(error=f"The server's worker for this session {error}"[:499] + ".")
        return Finished()

    def _order(self, worker: WorkerProcess, scratch: Path, links: EngineLinks) -> None:
        model, wanted = self._model, self._wanted
        order = Order(
            role="server",
            folder=model.folder,
            scratch=scratch,
            own_address=links.own_address,
            peer_address=links.peer_address,
            fingerprint=model.description.fingerprint,
            prompt_length=wanted.prompt_length,
            new_tokens=wanted.new_tokens,
            reveal=wanted.reveal,
            connect_seconds=model.connect_seconds,
            silent_seconds=model.silent_seconds,
            kind=wanted.kind,
            answers=wanted.answers,
            bundle=wanted.bundle,
            draft=wanted.draft,
            network=wanted.network,
            store=self._shelf.settings.folder,
            peer=self._peer.name,
        )
        worker.send(order)
        worker.send(PeerOrder(certificate=wanted.engine_certificate, threads=model.threads(wanted.kind), transfers=self._transfers))

    async def _follow(self, worker: WorkerProcess, send: Send) -> None:
        """Pass a worker's life on to the client until it has finished.

        Raises:
            _FailedError, WorkerDiedError: it failed or died; the message goes on from "The server's worker for this session".
        """
        clock = asyncio.get_running_loop().time
        start, spoken, accepted = clock(), clock(), False
        while True:
            # However much the worker has to say, the client hears from this server every few seconds.
            if clock() - spoken >= ALIVE_SECONDS:
                await _send_line(send, Alive())
                spoken = clock()
            try:
                # Not wait_for, which in Python 3.11 takes no notice of a cancellation that comes at the same moment as the event:
                # a client that hangs up would keep its worker.
                async with asyncio.timeout(max(0.01, spoken + ALIVE_SECONDS - clock())):
                    event = await worker.next()
            except TimeoutError:
                if not accepted and clock() - start > self._model.start_seconds:
                    raise _FailedError(f"was not ready within {self._model.start_seconds:.0f} s") from None
                continue
            self._counters.note(event)
            match event.event:
                case "listening":
                    await _send_line(send, self._accepted(event))
                    accepted = True
                case "failed" if event.kind == "bundle":
                    raise _BundleGoneError(event.error)
                case "failed":
                    self._log.warning("the worker failed", kind=event.kind, error=event.error)
                    # The client may know the state of the link, but not the names of this machine's files.
                    if event.kind == "store":
                        raise _FailedError("failed: prepared answers cannot be stored there, see the server's log")
                    shown = (event.error or "").rstrip(".") if event.kind in SHOWN_KINDS else "see the server's log"
                    raise _FailedError(f"failed: {shown}")
                case "finished":
                    return

    def _accepted(self, event: WorkerEvent) -> Accepted:
        assert event.certificate is not None
        model, wanted = self._model, self._wanted
        held = None if wanted.held is None else self._shelf.both_hold(self._peer.name, wanted.held)
        return Accepted(
            session=self._name,
            protocol_version=PROTOCOL_VERSION,
            engine_version=model.engine_version,
            architecture=model.description.architecture,
            shape=shape_of(model.description.shape),
            fingerprint=model.description.fingerprint,
            prompt_length=wanted.prompt_length,
            new_tokens=wanted.new_tokens,
            reveal=wanted.reveal,
            limits=model.limits,
            link_token=self._link_token,
            engine_certificate=event.certificate,
            kind=wanted.kind,
            answers=wanted.answers,
            bundle=wanted.bundle,
            held=held,
            draft=wanted.draft,
            network=wanted.network,
            near=wanted.near,
            threads=model.threads(wanted.kind),
            transfers=self._transfers,
        )

    async def _end(self, send: Send, event: Finished | Failed) -> None:
        self._over = True
        await _send_line(send, event)
        await send({"type": "http.response.body", "body": b""})

    def _log_tail(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            tail = path.read_bytes()[-2000:].decode(errors="replace")
            self._log.debug("the end of the worker's log", tail=tail)


def error_response(status: int, sentence: str, retry_seconds: float | None = None) -> JSONResponse:
    """{"error": sentence}."""
    headers = {} if retry_seconds is None else {"retry-after": str(math.ceil(retry_seconds))}
    return JSONResponse({"error": sentence}, status, headers)


async def _send_line(send: Send, event: Queued | Accepted | Alive | Finished | Failed) -> None:
    await send({"type": "http.response.body", "body": event.model_dump_json().encode() + b"\n", "more_body": True})
