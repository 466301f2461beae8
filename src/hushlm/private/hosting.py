"""One session at the server: the response to the request that opened it, with a worker process that lives exactly as long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from hushlm.private.description import PROTOCOL_VERSION, ProgramDescription
from hushlm.private.process import Order, PeerOrder, WorkerDiedError, WorkerEvent, WorkerProcess, start_worker
from hushlm.private.session import ALIVE_SECONDS, Accepted, Alive, Failed, Finished, Limits, SessionRequest, shape_of

__all__ = ["HostedSession", "Hosting", "error_response"]

log = logging.getLogger("hushlm.server")


@dataclass(frozen=True)
class Hosting:
    """What every session of a server shares.

    Attributes:
        folder: the export's `server/`.
        description: of its program.
        engine_version: of this machine.
        start_seconds: for a worker to load the weights.
        connect_seconds: for the engine's link to the client to open.
        silent_seconds: how long the client's engine may be silent.
        limits: of a session.
    """

    folder: Path
    description: ProgramDescription
    engine_version: str
    start_seconds: float
    connect_seconds: float
    silent_seconds: float
    limits: Limits


class _GoneError(Exception):
    """The client closed its connection."""


class _FailedError(Exception):
    """The session ends with a sentence for the client."""


class HostedSession(Response):
    """One session.

    Args:
        hosting: the server's.
        wanted: checked already.
        host: this machine's address that the client reached.
        on_end: called once, when the worker is gone.
    """

    def __init__(self, hosting: Hosting, wanted: SessionRequest, host: str, on_end: Callable[[], None]) -> None:
        self.background = None
        self._hosting, self._wanted, self._host, self._on_end = hosting, wanted, host, on_end
        self._name = secrets.token_hex(4)
        self._over = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted, client = self._wanted, scope.get("client") or ("?",)
        log.info(
            "session %s from %s: %d + %d tokens, reveal %s", self._name, client[0], wanted.prompt_length, wanted.new_tokens, wanted.reveal
        )
        outcome = "stopped with the server"
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch_client(receive))
                outcome = await group.create_task(self._serve(send))
                watch.cancel()
        except* (_GoneError, OSError):
            outcome = "given up by the client"
        finally:
            log.info("session %s: %s", self._name, outcome)
            self._on_end()

    async def _watch_client(self, receive: Receive) -> None:
        """Raises: _GoneError, when the connection closes before the session is over."""
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self._over:
            raise _GoneError

    async def _serve(self, send: Send) -> str:
        """Run the worker and tell the client how it goes. Returns: the outcome, for the log."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/x-ndjson")]})
        last: Failed | Finished = Finished()
        limit = self._hosting.limits.session_seconds
        try:
            async with asyncio.timeout(limit), start_worker() as (worker, scratch):
                self._order(worker, scratch)
                try:
                    await self._follow(worker, send)
                except (_FailedError, WorkerDiedError) as error:
                    self._log_tail(scratch / "worker.log")
                    last = Failed(error=f"The server's worker for this session {error}"[:499] + ".")
        except TimeoutError:
            last = Failed(error=f"The session took longer than the {limit:.0f} s that this server allows.")
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await self._end(send, Failed(error="The server was stopped."))
            raise
        await self._end(send, last)
        return last.event if isinstance(last, Finished) else f"failed: {last.error}"

    def _order(self, worker: WorkerProcess, scratch: Path) -> None:
        hosting, wanted = self._hosting, self._wanted
        order = Order(
            role="server",
            folder=hosting.folder,
            scratch=scratch,
            host=self._host,
            fingerprint=hosting.description.fingerprint,
            prompt_length=wanted.prompt_length,
            new_tokens=wanted.new_tokens,
            reveal=wanted.reveal,
            connect_seconds=hosting.connect_seconds,
            silent_seconds=hosting.silent_seconds,
        )
        worker.send(order)
        worker.send(PeerOrder(address=wanted.engine_address, certificate=wanted.engine_certificate))

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
                event = await asyncio.wait_for(worker.next(), max(0.01, spoken + ALIVE_SECONDS - clock()))
            except TimeoutError:
                if not accepted and clock() - start > self._hosting.start_seconds:
                    raise _FailedError(f"was not ready within {self._hosting.start_seconds:.0f} s") from None
                continue
            match event.event:
                case "listening":
                    await _send_line(send, self._accepted(event))
                    accepted = True
                case "failed":
                    log.warning("session %s: %s", self._name, event.error)
                    # The client may know the state of the link, but not the names of this machine's files.
                    shown = (event.error or "").rstrip(".") if event.kind in ("link", "peer") else "see the server's log"
                    raise _FailedError(f"failed: {shown}")
                case "finished":
                    return

    def _accepted(self, event: WorkerEvent) -> Accepted:
        assert event.address is not None
        assert event.certificate is not None
        hosting, wanted = self._hosting, self._wanted
        return Accepted(
            session=self._name,
            protocol_version=PROTOCOL_VERSION,
            engine_version=hosting.engine_version,
            architecture=hosting.description.architecture,
            shape=shape_of(hosting.description.shape),
            fingerprint=hosting.description.fingerprint,
            prompt_length=wanted.prompt_length,
            new_tokens=wanted.new_tokens,
            reveal=wanted.reveal,
            limits=hosting.limits,
            engine_address=event.address,
            engine_certificate=event.certificate,
        )

    async def _end(self, send: Send, event: Finished | Failed) -> None:
        self._over = True
        await _send_line(send, event)
        await send({"type": "http.response.body", "body": b""})

    def _log_tail(self, path: Path) -> None:
        tail = path.read_bytes()[-2000:].decode(errors="replace")
        log.debug("session %s: the worker's log ends:\n%s", self._name, tail)


def error_response(status: int, sentence: str) -> JSONResponse:
    """{"error": sentence}."""
    return JSONResponse({"error": sentence}, status)


async def _send_line(send: Send, event: Accepted | Alive | Finished | Failed) -> None:
    await send({"type": "http.response.body", "body": event.model_dump_json().encode() + b"\n", "more_body": True})
