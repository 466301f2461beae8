"""One session at the client: its worker, the handshake, and the worker's events, with the server's end of the session watched meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import httpx

from hushlm.private.client.client_settings import ClientSettings
from hushlm.private.client.control_channel import ControlChannel, ServerEvents, session_failure
from hushlm.private.client.prepared_shelf import ClientShelf
from hushlm.private.program.description import PROTOCOL_VERSION, ProgramDescription, RevealPolicy
from hushlm.private.program.sampling import Sampling
from hushlm.private.session.engine_links import ROLES, EngineLinks, OnSent, Role, engine_links
from hushlm.private.session.handshake import check_accepted
from hushlm.private.session.messages import (
    BundleProblem,
    BundleRefusedError,
    Failed,
    Finished,
    NetworkBetween,
    Queued,
    SessionError,
    SessionKind,
    SessionRequest,
    shape_of,
)
from hushlm.private.session.process import Order, PeerOrder, WorkerDiedError, WorkerEvent, WorkerProcess, start_worker

__all__ = ["Preparation", "Question", "SessionRunner"]

GRACE_SECONDS = 3.0
"""How long one side may take for its last words, once the other has ended."""


@dataclass(frozen=True)
class Question:
    """What is asked; the server learns its lengths and `reveal`.

    Attributes:
        prompt_tokens: token ids of the prompt (P,).
        new_tokens: how many tokens to generate.
        reveal: what the client learns of each step.
        sampling: how the next token is chosen where top-k or logits are revealed; nothing of it leaves this side.
    """

    prompt_tokens: tuple[int, ...]
    new_tokens: int
    reveal: RevealPolicy = RevealPolicy()
    sampling: Sampling = Sampling()

    @property
    def prompt_length(self) -> int:
        """How many tokens the prompt has."""
        return len(self.prompt_tokens)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken, and is among what is revealed as one token or all logits."""
        return self.sampling.temperature == 0 and self.reveal.kind != "topk"


@dataclass(frozen=True)
class Preparation:
    """Answers that are to be prepared.

    Attributes:
        prompt_length: length of the prompts in tokens; it is rounded up to a bucket.
        new_tokens: how many tokens an answer may have.
        answers: how many.
        draft: how many tokens each pass of an answer guesses.
        stop: set when no further batch is wanted.
    """

    prompt_length: int
    new_tokens: int
    answers: int
    draft: int
    stop: asyncio.Event


@dataclass(frozen=True)
class SessionRunner:
    """Runs sessions of one client with one server; holds what all of them share.

    Attributes:
        folder: the export's `client/`.
        description: the program's description, from that folder.
        engine_version: name and version of this machine's engine.
        control: opens control connections to the server.
        settings: the client's times.
    """

    folder: Path
    description: ProgramDescription
    engine_version: str
    control: ControlChannel
    settings: ClientSettings

    async def run(
        self, wanted: Question | Preparation, shelf: ClientShelf, bundle: str | None = None, on_sent: OnSent | None = None
    ) -> AsyncGenerator[Queued | WorkerEvent, None]:
        """Ask or prepare once. Closing the iterator gives the session up at both ends.

        Args:
            wanted: what for.
            shelf: this client's prepared answers.
            bundle: identity of the one that a question uses up; None computes everything now.
            on_sent: see `engine_links`.

        Raises:
            BundleRefusedError: if that one cannot be used; nothing of the prompt was sent.
            UnavailableError: if there is no server, or it has no place; nothing has begun.
            SessionError: if the session could not be opened, or broke.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                worker, request, links = await self._start(stack, wanted, shelf, bundle, on_sent)
                server = await self.control.open(stack, request)
                async with contextlib.aclosing(self._wait(server, worker, request, links, wanted, shelf)) as waiting:
                    async for place in waiting:
                        yield place
                if isinstance(wanted, Preparation):
                    passing = asyncio.create_task(_pass_on(wanted.stop, worker))
                    stack.callback(passing.cancel)
                async with contextlib.aclosing(_follow(worker, server)) as following:
                    async for event in following:
                        yield event
            except WorkerDiedError as error:
                raise SessionError(f"This session's own process {error}: ask again.") from error
            except (httpx.HTTPError, ssl.SSLError) as error:
                # Bytes that were changed on the way come as TLS's own error, past the HTTP library.
                raise SessionError(self.control.broken(error)) from error

    async def _start(
        self,
        stack: contextlib.AsyncExitStack,
        wanted: Question | Preparation,
        shelf: ClientShelf,
        bundle: str | None,
        on_sent: OnSent | None,
    ) -> tuple[WorkerProcess, SessionRequest, EngineLinks]:
        """Start the worker, whose certificate is part of the request."""
        description, length = self.description, wanted.prompt_length
        asks = isinstance(wanted, Question)
        kind: SessionKind = "ask" if asks else "prepare"
        answers, draft = (0, 0) if isinstance(wanted, Question) else (wanted.answers, wanted.draft)
        reveal, sampling = (wanted.reveal, wanted.sampling) if isinstance(wanted, Question) else (RevealPolicy(), Sampling())
        network = NetworkBetween.of(self.settings.network) if asks else None
        prepared = not asks or bundle is not None
        worker, scratch = await stack.enter_async_context(start_worker())
        links = await stack.enter_async_context(engine_links("client", self.settings.connect_seconds, on_sent))
        worker.send(
            Order(
                role="client",
                folder=self.folder,
                scratch=scratch,
                own_address=links.own_address,
                peer_address=links.peer_address,
                fingerprint=description.fingerprint,
                prompt_length=length,
                new_tokens=wanted.new_tokens,
                reveal=reveal,
                connect_seconds=self.settings.connect_seconds,
                silent_seconds=self.settings.silent_seconds,
                sampling=sampling,
                kind=kind,
                answers=answers,
                bundle=bundle,
                draft=draft,
                network=network,
                store=shelf.folder if prepared else None,
                draft_model=None if bundle is None else self.settings.draft_model,
                peer=shelf.server,
            )
        )
        listening = _raise_failure(await worker.next())
        assert listening.certificate is not None
        request = SessionRequest(
            protocol_version=PROTOCOL_VERSION,
            engine_version=self.engine_version,
            architecture=description.architecture,
            shape=shape_of(description.shape),
            fingerprint=description.fingerprint,
            prompt_length=length,
            new_tokens=wanted.new_tokens,
            reveal=reveal,
            engine_certificate=listening.certificate,
            kind=kind,
            answers=answers,
            bundle=bundle,
            held=await asyncio.to_thread(shelf.names) if prepared else None,
            draft=draft,
            network=network,
            near=self.control.near,
        )
        return worker, request, links

    async def _wait(
        self,
        server: ServerEvents,
        worker: WorkerProcess,
        request: SessionRequest,
        links: EngineLinks,
        wanted: Question | Preparation,
        shelf: ClientShelf,
    ) -> AsyncGenerator[Queued, None]:
        """Wait until the server has a worker. Ours learns of it once the handshake has been checked, and not before."""
        clock = asyncio.get_running_loop().time
        start = clock()
        while isinstance(event := await server.place(self.settings.start_seconds), Queued):
            yield event
            if clock() - start > self.settings.queue_seconds:
                raise SessionError(f"The server had no place within {self.settings.queue_seconds:.0f} s: ask again later.")
        check_accepted(event, request, self.description, self.engine_version)
        await asyncio.to_thread(shelf.reconcile, request.held, event.held)
        try:
            await self._link(links, event.link_token)
        except SessionError as refusal:
            raise await _reason(server, refusal) from refusal
        prompt = list(wanted.prompt_tokens) if isinstance(wanted, Question) else None
        worker.send(PeerOrder(certificate=event.engine_certificate, prompt=prompt, threads=event.threads, transfers=event.transfers))

    async def _link(self, links: EngineLinks, token: str) -> None:
        """Open both connections that carry the links, at once: each takes several round trips."""

        async def link(caller: Role) -> None:
            links.join(caller, await self.control.open_link(token, caller))

        try:
            async with asyncio.TaskGroup() as group:
                for caller in ROLES:
                    group.create_task(link(caller))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None


async def _reason(server: ServerEvents, refusal: SessionError) -> SessionError:
    """Why there are no links: where the session is over already, the control channel says so."""
    with contextlib.suppress(TimeoutError, SessionError, httpx.HTTPError, ssl.SSLError):
        async with asyncio.timeout(GRACE_SECONDS):
            return session_failure(await server.end())
    return refusal


async def _follow(worker: WorkerProcess, server: ServerEvents) -> AsyncGenerator[WorkerEvent, None]:
    """The worker's events until it has finished; meanwhile the server's end of the session is watched.

    Raises:
        SessionError, WorkerDiedError, httpx.HTTPError: whatever ended the session first.
    """
    watch: asyncio.Task[Failed | Finished] = asyncio.create_task(server.end())
    reading: asyncio.Task[WorkerEvent] | None = None
    try:
        while True:
            reading = asyncio.create_task(worker.next())
            await asyncio.wait({reading} if watch.done() else {reading, watch}, return_when=asyncio.FIRST_COMPLETED)
            if watch.done() and not (watch.exception() is None and isinstance(watch.result(), Finished)):
                # The answer may be complete all the same: the worker gets a moment to say so.
                await asyncio.wait({reading}, timeout=GRACE_SECONDS)
                if not (reading.done() and reading.exception() is None and reading.result().event != "failed"):
                    raise session_failure(watch.result())
            event = _raise_failure(await reading)
            yield event
            if event.event == "finished":
                await asyncio.wait({watch}, timeout=GRACE_SECONDS)
                return
    finally:
        for task in (watch, reading):
            if task is not None:
                task.cancel()
                with contextlib.suppress(BaseException):
                    await task


def _raise_failure(event: WorkerEvent) -> WorkerEvent:
    if event.event == "failed":
        sentence = event.error or "The session failed."
        raise BundleRefusedError(sentence, BundleProblem.GONE) if event.kind == "bundle" else SessionError(sentence)
    return event


async def _pass_on(stop: asyncio.Event, worker: WorkerProcess) -> None:
    await stop.wait()
    worker.stop_soon()
