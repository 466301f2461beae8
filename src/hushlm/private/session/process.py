"""A worker as its parent sees it: the orders it gets, the events it gives, and its life and death.

`worker` is the other end. Orders and events are JSON, one document a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from hushlm.plan.protocol_settings import Transfers
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.description import RevealPolicy
from hushlm.private.program.sampling import Sampling
from hushlm.private.program.token_answer import TokenAnswer
from hushlm.private.session.messages import NetworkBetween, SessionKind

__all__ = ["FailureKind", "Order", "PeerOrder", "WorkerDiedError", "WorkerEvent", "WorkerProcess", "WorkerTraffic", "start_worker"]

# -P: modules come from the installed packages, never from the folder that the user happens to be in.
COMMAND = (sys.executable, "-P", "-m", "hushlm.private.session.worker")

MAXIMUM_EVENT_BYTES = 64 << 20
"""The longest line: the logits of a vocabulary of 50,257 tokens are a megabyte of JSON."""


FailureKind = Literal["input", "link", "peer", "unfit", "bundle", "store", "internal"]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Order(_Line):
    """What to run.

    Attributes:
        role: which party.
        folder: the export's `client/` or `server/`.
        scratch: folder of this session alone, made and removed by the parent.
        own_address: HOST:PORT where the engine listens.
        peer_address: HOST:PORT where it calls its peer.
        fingerprint: the fingerprint that the program must have.
        prompt_length: how many tokens the prompt has.
        new_tokens: how many tokens to generate.
        reveal: what the client learns of each step.
        connect_seconds: how long the engine's link may take to open.
        silent_seconds: how long the peer may be silent.
        sampling: how the client chooses among what is revealed; the server's stays as it is.
        tls: False leaves the engine's link open to be read on the way; no command and no message of a peer can ask for it.
        kind, answers, bundle, draft, network: of the session, see `SessionRequest`.
        store: this side's folder of prepared answers; None where the session needs none.
        peer: the other side's name in that folder.
        draft_model: the client's checkpoint that guesses tokens; None for a look-up.
    """

    role: Literal["client", "server"]
    folder: Path
    scratch: Path
    own_address: str
    peer_address: str
    fingerprint: str
    prompt_length: int
    new_tokens: int
    reveal: RevealPolicy
    connect_seconds: float
    silent_seconds: float
    sampling: Sampling = Sampling()
    tls: bool = True
    kind: SessionKind = "ask"
    answers: int = 0
    bundle: str | None = None
    draft: int = 0
    network: NetworkBetween | None = None
    store: Path | None = None
    draft_model: Path | None = None
    peer: str = ""


class PeerOrder(_Line):
    """Whom to run it with.

    Attributes:
        certificate: PEM of the peer's certificate for this session.
        prompt: token ids of the prompt at the client; None at the server.
        threads: of each party's engine, most of them; None takes those of the program's description.
        transfers: how both engines make oblivious transfers.
    """

    certificate: str
    threads: int | None = None
    transfers: Transfers = "ferret"
    prompt: list[int] | None = None


class WorkerTraffic(_Line):
    """Counters of the engine, see `engine.Traffic`."""

    sent_bytes: int
    received_bytes: int
    sent_messages: int
    received_messages: int
    seconds: float

    @staticmethod
    def of(traffic: Traffic) -> WorkerTraffic:
        return WorkerTraffic(
            sent_bytes=traffic.sent_bytes,
            received_bytes=traffic.received_bytes,
            sent_messages=traffic.sent_messages,
            received_messages=traffic.received_messages,
            seconds=traffic.seconds,
        )

    def to_traffic(self) -> Traffic:
        return Traffic(self.sent_bytes, self.received_bytes, self.sent_messages, self.received_messages, self.seconds)


class WorkerEvent(_Line):
    """One line of a worker. Only the fields of its kind are set.

    Attributes:
        event: "listening" (certificate), "linked", "ready" (traffic of the set-up), "step" (name, layer, index, count,
            traffic), "token" (token, top, logits, traffic), "finished", or "failed" (kind, error). Of prepared answers: "work" (share of
            a preparation that is done), "stored" (index, count, bundle, size_bytes, traffic of a batch or nothing), "burnt" (bundle).
        seconds: time since the worker began; every event has it.
        kind: kind of a failure: "input" (what was asked for), "link" (it did not open), "peer" (it broke), "unfit" (this model has no
            prepared answers), "bundle" (the prepared answer is gone), "store" (prepared answers cannot be written), "internal".
    """

    event: Literal["listening", "linked", "ready", "step", "token", "work", "stored", "burnt", "finished", "failed"]
    seconds: float
    certificate: str | None = None
    name: str | None = None
    layer: int | None = None
    index: int | None = None
    count: int | None = None
    traffic: WorkerTraffic | None = None
    token: int | None = None
    top: list[tuple[int, float]] | None = None
    logits: list[float] | None = None
    kind: FailureKind | None = None
    error: str | None = None
    share: float | None = None
    bundle: str | None = None
    size_bytes: int | None = None

    def to_answer(self) -> TokenAnswer:
        """A "token" event as the generator's own answer."""
        assert self.traffic is not None
        logits = None if self.logits is None else np.asarray(self.logits)
        return TokenAnswer(self.token, self.top, logits, self.traffic.to_traffic())


class WorkerDiedError(Exception):
    """A worker ended without a last word; the message says how."""


class WorkerProcess:
    """A running worker, made by `start_worker`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def identifier(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self._process.returncode

    def send(self, order: Order | PeerOrder) -> None:
        """Give an order. The pipe buffers it; a dead worker is noticed by `next`."""
        assert self._process.stdin is not None
        self._process.stdin.write(order.model_dump_json().encode() + b"\n")

    def stop_soon(self) -> None:
        """Let a preparation end after the batch that it is making; any other session goes on."""
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(b"stop\n")

    async def next(self) -> WorkerEvent:
        """The next event.

        Raises:
            WorkerDiedError: there will be none.
        """
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if line.endswith(b"\n"):
            return WorkerEvent.model_validate_json(line)
        code = await self._process.wait()
        raise WorkerDiedError(_how(code))

    async def end(self) -> None:
        """Kill it; one that has closed its end already gets a moment to exit by itself.

        A task that is cancelled meanwhile ends only when the process is gone: its scratch folder is removed next.
        """
        assert self._process.stdout is not None
        cancelled: asyncio.CancelledError | None = None
        if self._process.returncode is None and self._process.stdout.at_eof():
            try:
                await asyncio.wait_for(self._process.wait(), 2)
            except TimeoutError:
                pass
            except asyncio.CancelledError as error:
                cancelled = error
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        while True:
            try:
                await self._process.wait()
                break
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled


def _how(code: int) -> str:
    """How a worker ended, and why, as far as that can be told."""
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    match code:
        case -9:
            return f"{how}, by somebody or for want of memory"
        case -6 | -11 | 255:
            return f"{how}, as the two-party engine does when its link to the peer breaks"
        case _:
            return how


@contextlib.asynccontextmanager
async def start_worker() -> AsyncIterator[tuple[WorkerProcess, Path]]:
    """A worker without orders, and its scratch folder; both are gone at the end of the block, whatever happens.

    The scratch folder takes the engine's temporary files (its log of byte counts) and `worker.log`, the worker's stderr.
    """
    scratch = Path(tempfile.mkdtemp(prefix="hushlm-session-"))
    try:
        with (scratch / "worker.log").open("wb") as log:
            start = asyncio.create_subprocess_exec(
                *COMMAND,
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                env=os.environ | {"TMPDIR": str(scratch)},
                limit=MAXIMUM_EVENT_BYTES,
                start_new_session=True,  # Ctrl-C at a terminal is for the parent
            )
            starting, cancelled = await _outlast(start)
        worker = WorkerProcess(starting.result())
        try:
            if cancelled is not None:
                raise cancelled
            yield worker, scratch
        finally:
            await worker.end()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


async def _outlast(start: Coroutine[Any, Any, Process]) -> tuple[asyncio.Task[Process], asyncio.CancelledError | None]:
    """The start of a process once it is over, and what this task was cancelled with meanwhile: a process that nobody holds is not ended."""
    starting = asyncio.create_task(start)
    cancelled: asyncio.CancelledError | None = None
    while not starting.done():
        try:
            await asyncio.wait({starting})
        except asyncio.CancelledError as error:
            cancelled = error
    return starting, cancelled
