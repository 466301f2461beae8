"""The client: asks a server to continue a prompt, and shows it nothing of the prompt but its length.

The computation runs in a worker process, so whatever becomes of the engine, the caller gets one sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from hushlm.cost import LAN, Network
from hushlm.private.client.client_session import Asking, Question
from hushlm.private.client.control_channel import ControlChannel, UnavailableError
from hushlm.private.client.estimate import Estimate, estimate
from hushlm.private.client.loop_thread import LoopThread
from hushlm.private.client.progress import Progress, Tally
from hushlm.private.client.prompts import encode_prompt, load_tokenizer
from hushlm.private.client.retries import Retries
from hushlm.private.engine import engine_version
from hushlm.private.engine.traffic import Traffic
from hushlm.private.keys.certificates import CLIENT
from hushlm.private.program.description import RevealPolicy, load_description
from hushlm.private.program.sampling import Sampling
from hushlm.private.program.token_answer import TokenAnswer
from hushlm.private.session.messages import ALIVE_SECONDS, Queued

__all__ = ["Client", "ClientSettings", "PrivateAnswer", "Progress"]


@dataclass(frozen=True)
class ClientSettings:
    """Times, and where to listen.

    Attributes:
        connect_seconds: for the control connection, and again for the engine's link, to open.
        queue_seconds: in the server's queue, if all its workers are busy.
        start_seconds: for the server's worker to load the weights.
        silent_seconds: how long the server's engine may be silent.
        alive_seconds: how long the server may be silent on the control connection, where it speaks every few seconds.
        retries: where no server is found, or one without a place.
        listen_host: IPv4 address of this machine that the server can reach; by default the one that its connections come from.
    """

    connect_seconds: float = 30.0
    queue_seconds: float = 3600.0
    start_seconds: float = 150.0
    silent_seconds: float = 120.0
    alive_seconds: float = 6 * ALIVE_SECONDS
    retries: Retries = Retries()
    listen_host: str | None = None

    def __post_init__(self) -> None:
        if min(self.connect_seconds, self.queue_seconds, self.start_seconds, self.silent_seconds, self.alive_seconds) <= 0:
            raise ValueError("A client's times must be above 0 seconds.")


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
        expected_bytes: of the query, both directions, by the cost model.
        set_up_seconds: from the question to a ready session: attempts and queue, processes, handshake, engine.
        query_seconds: from there to the last token.
    """

    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str
    answers: tuple[TokenAnswer, ...]
    set_up: Traffic
    query: Traffic
    expected_bytes: int
    set_up_seconds: float
    query_seconds: float


OnProgress = Callable[[Progress], None]


class Client:
    """Asks one server, one session a question; several questions may be asked at once.

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
        self._asking = Asking(
            folder=model.absolute(),
            description=self.description,
            engine_version=engine_version(),
            control=ControlChannel(server, keys, name, settings.connect_seconds, settings.alive_seconds),
            listen_host=settings.listen_host,
            connect_seconds=settings.connect_seconds,
            queue_seconds=settings.queue_seconds,
            start_seconds=settings.start_seconds,
            silent_seconds=settings.silent_seconds,
        )

    def estimate(self, prompt_length: int, new_tokens: int, reveal: RevealPolicy = RevealPolicy(), network: Network = LAN) -> Estimate:
        """What a question is going to move and take, before it is asked; lengths in tokens."""
        return estimate(self.description, prompt_length, new_tokens, reveal, network)

    def ask(
        self,
        prompt: str,
        new_tokens: int,
        reveal: RevealPolicy = RevealPolicy(),
        truncate: bool = False,
        on_progress: OnProgress | None = None,
        sampling: Sampling = Sampling(),
    ) -> PrivateAnswer:
        """Continue a prompt.

        Raises:
            ValueError: the prompt is empty or too long.
            SessionError: the session could not be opened, or broke.
        """
        tokens = encode_prompt(self.tokenizer, prompt, self.description.shape.context, new_tokens, truncate)
        gathering = _Gathering(on_progress)
        for answer in self.stream(tokens, new_tokens, reveal, gathering.note, sampling):
            gathering.note(answer)
        return gathering.answer(tokens, self.tokenizer.decode)

    async def ask_async(
        self,
        prompt: str,
        new_tokens: int,
        reveal: RevealPolicy = RevealPolicy(),
        truncate: bool = False,
        on_progress: OnProgress | None = None,
        sampling: Sampling = Sampling(),
    ) -> PrivateAnswer:
        """`ask` in the caller's event loop; cancelling it gives the session up at both ends."""
        tokens = encode_prompt(self.tokenizer, prompt, self.description.shape.context, new_tokens, truncate)
        gathering = _Gathering(on_progress)
        async with contextlib.aclosing(self.events(tokens, new_tokens, reveal, sampling)) as events:
            async for event in events:
                gathering.note(event)
        return gathering.answer(tokens, self.tokenizer.decode)

    def stream(
        self,
        prompt_tokens: Sequence[int],
        new_tokens: int,
        reveal: RevealPolicy = RevealPolicy(),
        on_progress: OnProgress | None = None,
        sampling: Sampling = Sampling(),
    ) -> Iterator[TokenAnswer]:
        """Continue a prompt token by token. Closing the iterator gives the session up at both ends.

        Raises:
            SessionError: the session could not be opened, or broke.
        """
        inbox: queue.SimpleQueue[TokenAnswer | Progress | BaseException | None] = queue.SimpleQueue()

        async def pour() -> None:
            try:
                async with contextlib.aclosing(self.events(prompt_tokens, new_tokens, reveal, sampling)) as events:
                    async for item in events:
                        inbox.put(item)
                inbox.put(None)
            except Exception as error:
                inbox.put(error)

        thread = LoopThread(pour)
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

    async def events(
        self,
        prompt_tokens: Sequence[int],
        new_tokens: int,
        reveal: RevealPolicy = RevealPolicy(),
        sampling: Sampling = Sampling(),
    ) -> AsyncGenerator[TokenAnswer | Progress, None]:
        """What `stream` iterates over, for callers with an event loop of their own.

        Raises:
            SessionError: the session could not be opened, or broke.
        """
        question = Question(tuple(prompt_tokens), new_tokens, reveal, sampling)
        expected = self.estimate(len(prompt_tokens), new_tokens, reveal)
        tally = Tally(self.description.shape.layers, expected, time.perf_counter())
        retries, chance = self.settings.retries, random.Random()
        for attempt in count():
            try:
                async with contextlib.aclosing(self._asking.session(question)) as events:
                    async for event in events:
                        if isinstance(event, Queued):
                            yield tally.waiting(event.position)
                        else:
                            for item in tally.note(event):
                                yield item
                return
            except UnavailableError as error:
                pause_seconds = retries.pause_seconds(attempt, error.wished_seconds, chance)
                if pause_seconds is None:
                    raise
            yield tally.waiting()
            await asyncio.sleep(pause_seconds)


class _Gathering:
    """A session's events into one answer."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress, self._start = on_progress, time.perf_counter()
        self._ready: Progress | None = None
        self._answers: list[TokenAnswer] = []

    def note(self, item: TokenAnswer | Progress) -> None:
        if isinstance(item, TokenAnswer):
            self._answers.append(item)
            return
        if item.phase == "set-up" and item.step == item.steps:
            self._ready = item
        if self._on_progress is not None:
            self._on_progress(item)

    def answer(self, prompt: Sequence[int], decode: Callable[[list[int]], str]) -> PrivateAnswer:
        assert self._ready is not None
        ids = [answer.token for answer in self._answers if answer.token is not None]
        return PrivateAnswer(
            prompt_tokens=tuple(prompt),
            tokens=tuple(ids),
            text=decode(ids),
            answers=tuple(self._answers),
            set_up=self._ready.traffic,
            query=sum((answer.traffic for answer in self._answers), Traffic()),
            expected_bytes=self._ready.expected_bytes,
            set_up_seconds=self._ready.seconds,
            query_seconds=time.perf_counter() - self._start - self._ready.seconds,
        )
