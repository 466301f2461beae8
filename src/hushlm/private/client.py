"""The client: asks a server to continue a prompt, and shows it nothing of the prompt but its length.

The computation runs in a worker process, so whatever becomes of the engine, the caller gets one sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from hushlm.private.answers import StepTraffic, TokenAnswer
from hushlm.private.background import LoopThread
from hushlm.private.certificates import CLIENT
from hushlm.private.control import ControlChannel, ServerEvents, last_words
from hushlm.private.description import PROTOCOL_VERSION, RevealPolicy, load_description
from hushlm.private.engine import engine_version
from hushlm.private.handshake import check_accepted
from hushlm.private.process import Order, PeerOrder, WorkerDiedError, WorkerEvent, WorkerProcess, start_worker
from hushlm.private.prompts import encode_prompt, load_tokenizer
from hushlm.private.sampling import Sampling
from hushlm.private.session import ALIVE_SECONDS, Failed, Finished, SessionError, SessionRequest, shape_of
from hushlm.private.traffic import Traffic

__all__ = ["Client", "ClientSettings", "PrivateAnswer", "Progress"]

GRACE_SECONDS = 3.0
"""For the last words of one side, once the other has ended."""


@dataclass(frozen=True)
class ClientSettings:
    """Times, and where to listen.

    Attributes:
        connect_seconds: for the control connection, and again for the engine's link, to open.
        start_seconds: for the server's worker to load the weights.
        silent_seconds: how long the server's engine may be silent.
        alive_seconds: how long the server may be silent on the control connection, where it speaks every few seconds.
        sampling: how the next token is chosen where top-k or logits are revealed; nothing of it leaves this side.
        listen_host: IPv4 address of this machine that the server can reach; by default the one that its connections come from.
    """

    connect_seconds: float = 30.0
    start_seconds: float = 150.0
    silent_seconds: float = 120.0
    alive_seconds: float = 6 * ALIVE_SECONDS
    sampling: Sampling = Sampling()
    listen_host: str | None = None

    def __post_init__(self) -> None:
        if min(self.connect_seconds, self.start_seconds, self.silent_seconds, self.alive_seconds) <= 0:
            raise ValueError("A client's times must be above 0 seconds.")


@dataclass(frozen=True)
class Progress:
    """Where a session is.

    Attributes:
        phase: "set-up" until the engine is ready, then "query".
        token, tokens: 1-based token that is being computed, and how many will be.
        step, steps: of the pass for that token, 1-based.
        layer: 1-based block of that step, or None outside the blocks.
        layers: blocks.
        traffic: so far, of this phase.
        seconds: since the question was asked.
    """

    phase: str
    token: int
    tokens: int
    step: int
    steps: int
    layer: int | None
    layers: int
    traffic: Traffic
    seconds: float


@dataclass(frozen=True)
class PrivateAnswer:
    """A whole answer.

    Attributes:
        prompt_tokens: that were asked.
        tokens: generated ids.
        text: of the generated tokens.
        answers: each token with what was revealed and moved.
        set_up: what opening the session moved: keys and base oblivious transfers, the same for any prompt.
        query: what the question itself moved.
        set_up_seconds: from the question to a ready session: processes, handshake, engine.
        query_seconds: from there to the last token.
    """

    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str
    answers: tuple[TokenAnswer, ...]
    set_up: Traffic
    query: Traffic
    set_up_seconds: float
    query_seconds: float


OnProgress = Callable[[Progress], None]


class Client:
    """Asks one server.

    Args:
        model: the export's `client/`.
        server: HOST:PORT of the server.
        keys: folder with authority.pem and this client's .pem and .key.
        name: of this client's files there.
        settings: times.

    Raises:
        ValueError: one sentence: not an export, unusable keys, no engine, a malformed address.
    """

    def __init__(self, model: Path, server: str, keys: Path, name: str = CLIENT, settings: ClientSettings = ClientSettings()) -> None:
        self.description = load_description(model)
        self.tokenizer = load_tokenizer(model, self.description)
        self.settings = settings
        self._model = model.absolute()
        self._engine_version = engine_version()
        self._control = ControlChannel(server, keys, name, settings.connect_seconds, settings.alive_seconds)

    def ask(
        self,
        prompt: str,
        new_tokens: int,
        reveal: RevealPolicy = RevealPolicy(),
        truncate: bool = False,
        on_progress: OnProgress | None = None,
    ) -> PrivateAnswer:
        """Continue a prompt.

        Raises:
            ValueError: the prompt is empty or too long.
            SessionError: the session could not be opened, or broke.
        """
        tokens = encode_prompt(self.tokenizer, prompt, self.description.shape.context, new_tokens, truncate)
        start = time.perf_counter()
        ready: list[Progress] = []

        def note(progress: Progress) -> None:
            if progress.phase == "set-up" and progress.step == progress.steps:
                ready.append(progress)
            if on_progress is not None:
                on_progress(progress)

        answers = tuple(self.stream(tokens, new_tokens, reveal, note))
        seconds = time.perf_counter() - start
        ids = tuple(answer.token for answer in answers if answer.token is not None)
        return PrivateAnswer(
            prompt_tokens=tuple(tokens),
            tokens=ids,
            text=self.tokenizer.decode(list(ids)),
            answers=answers,
            set_up=ready[0].traffic,
            query=sum((answer.traffic for answer in answers), Traffic()),
            set_up_seconds=ready[0].seconds,
            query_seconds=seconds - ready[0].seconds,
        )

    def stream(
        self,
        prompt_tokens: Sequence[int],
        new_tokens: int,
        reveal: RevealPolicy = RevealPolicy(),
        on_progress: OnProgress | None = None,
    ) -> Iterator[TokenAnswer]:
        """Continue a prompt token by token. Closing the iterator gives the session up at both ends.

        Raises:
            SessionError: the session could not be opened, or broke.
        """
        inbox: queue.SimpleQueue[TokenAnswer | Progress | BaseException | None] = queue.SimpleQueue()
        thread = LoopThread(lambda: self._pour(prompt_tokens, new_tokens, reveal, inbox))
        try:
            while (item := inbox.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                if isinstance(item, Progress):
                    if on_progress is not None:
                        on_progress(item)
                else:
                    yield item
        finally:
            thread.stop()

    async def _pour(self, tokens: Sequence[int], new_tokens: int, reveal: RevealPolicy, inbox: queue.SimpleQueue) -> None:
        try:
            async for item in self.events(tokens, new_tokens, reveal):
                inbox.put(item)
            inbox.put(None)
        except Exception as error:
            inbox.put(error)

    async def events(
        self, prompt_tokens: Sequence[int], new_tokens: int, reveal: RevealPolicy = RevealPolicy()
    ) -> AsyncIterator[TokenAnswer | Progress]:
        """What `stream` iterates over, for callers with an event loop of their own.

        Raises:
            SessionError: the session could not be opened, or broke.
        """
        start = time.perf_counter()
        async with contextlib.AsyncExitStack() as stack:
            try:
                worker, server = await self._open(stack, list(prompt_tokens), new_tokens, reveal)
                tally = _Tally(self.description.shape.layers, new_tokens, start)
                async for event in _follow(worker, server):
                    for item in tally.note(event):
                        yield item
            except WorkerDiedError as error:
                raise SessionError(f"This session's own process {error}: ask again.") from error
            except httpx.HTTPError as error:
                raise SessionError(self._control.broken(error)) from error

    async def _open(
        self, stack: contextlib.AsyncExitStack, prompt: list[int], new_tokens: int, reveal: RevealPolicy
    ) -> tuple[WorkerProcess, ServerEvents]:
        """Start the worker, open the session, and introduce the two engines to each other."""
        settings, description = self.settings, self.description
        host = settings.listen_host or await self._control.local_address()
        worker, scratch = await stack.enter_async_context(start_worker())
        worker.send(
            Order(
                role="client",
                folder=self._model,
                scratch=scratch,
                host=host,
                fingerprint=description.fingerprint,
                prompt_length=len(prompt),
                new_tokens=new_tokens,
                reveal=reveal,
                connect_seconds=settings.connect_seconds,
                silent_seconds=settings.silent_seconds,
                sampling=settings.sampling,
            )
        )
        listening = _raise_failure(await worker.next())
        assert listening.address is not None
        assert listening.certificate is not None
        request = SessionRequest(
            protocol_version=PROTOCOL_VERSION,
            engine_version=self._engine_version,
            architecture=description.architecture,
            shape=shape_of(description.shape),
            fingerprint=description.fingerprint,
            prompt_length=len(prompt),
            new_tokens=new_tokens,
            reveal=reveal,
            engine_address=listening.address,
            engine_certificate=listening.certificate,
        )
        server = await self._control.open(stack, request)
        accepted = await server.accepted(settings.start_seconds)
        check_accepted(accepted, request, description, self._engine_version)
        worker.send(PeerOrder(address=accepted.engine_address, certificate=accepted.engine_certificate, prompt=prompt))
        return worker, server


class _Tally:
    """Worker events into progress and answers."""

    def __init__(self, layers: int, tokens: int, start: float) -> None:
        self._layers, self._tokens, self._start = layers, tokens, start
        self._token, self._traffic = 1, Traffic()
        self._steps: list[StepTraffic] = []

    def note(self, event: WorkerEvent) -> Iterator[TokenAnswer | Progress]:
        match event.event:
            case "linked":
                yield self._progress("set-up", 0, 1, None)
            case "ready":
                assert event.traffic is not None
                self._traffic = event.traffic.to_traffic()
                yield self._progress("set-up", 1, 1, None)
                self._traffic = Traffic()
            case "step":
                assert event.traffic is not None
                assert event.index is not None
                assert event.count is not None
                assert event.name is not None
                moved = event.traffic.to_traffic()
                self._traffic += moved
                self._steps.append(StepTraffic(event.name, event.layer, moved))
                yield self._progress("query", event.index + 1, event.count, None if event.layer is None else event.layer + 1)
            case "token":
                self._token += 1
                yield replace(event.to_answer(), steps=tuple(self._steps))
                self._steps = []

    def _progress(self, phase: str, step: int, steps: int, layer: int | None) -> Progress:
        seconds = time.perf_counter() - self._start
        return Progress(phase, min(self._token, self._tokens), self._tokens, step, steps, layer, self._layers, self._traffic, seconds)


async def _follow(worker: WorkerProcess, server: ServerEvents) -> AsyncIterator[WorkerEvent]:
    """Events of the worker until it has finished; the server's end of the session is watched meanwhile.

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
                    raise SessionError(last_words(watch.result()))
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
        raise SessionError(event.error or "The session failed.")
    return event
