"""The client: asks a server to continue a prompt, and shows it nothing of the prompt but its length.

The computation runs in a worker process, so whatever becomes of the engine, the caller gets one sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import count
from pathlib import Path

from hushlm.cost import LAN, Network
from hushlm.private.client.answer import AnswerCollector, PrivateAnswer
from hushlm.private.client.client_settings import ClientSettings
from hushlm.private.client.control_channel import ControlChannel, UnavailableError
from hushlm.private.client.coroutine_thread import CoroutineThread
from hushlm.private.client.estimate import Estimate, estimate
from hushlm.private.client.progress import OnProgress, Progress, ProgressTracker
from hushlm.private.client.prompts import encode_prompt, load_tokenizer
from hushlm.private.client.run_session import Question, SessionRunner
from hushlm.private.engine import engine_version
from hushlm.private.keys.certificates import CLIENT
from hushlm.private.program.description import RevealPolicy, load_description
from hushlm.private.program.sampling import Sampling
from hushlm.private.program.token_answer import TokenAnswer
from hushlm.private.session.messages import Queued

__all__ = ["Client", "ClientSettings", "PrivateAnswer", "Progress"]


class Client:
    """Asks one server, one session a question; several questions may be asked at once.

    Args:
        model: the export's `client/` folder.
        server: HOST:PORT of the server.
        keys: folder with authority.pem and this client's .pem and .key.
        name: name of this client's files there, without .pem and .key.
        settings: how long to wait, and how often to ask again.

    Raises:
        ValueError: one sentence: the folder is not an export, the keys are unusable, there is no engine, or the address is malformed.
    """

    def __init__(self, model: Path, server: str, keys: Path, name: str = CLIENT, settings: ClientSettings = ClientSettings()) -> None:
        self.description = load_description(model)
        self.tokenizer = load_tokenizer(model, self.description)
        self.settings = settings
        control = ControlChannel(server, keys, name, settings.connect_seconds, settings.alive_seconds)
        self._runner = SessionRunner(model.absolute(), self.description, engine_version(), control, settings)

    def estimate(self, prompt_length: int, new_tokens: int, reveal: RevealPolicy = RevealPolicy(), network: Network = LAN) -> Estimate:
        """What a question is going to move and how long it will take, before it is asked; lengths are in tokens."""
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

        Args:
            prompt: the text to continue.
            new_tokens: how many tokens to generate.
            reveal: what this side learns of each step.
            truncate: keep the last tokens of a prompt that is too long, instead of refusing it.
            on_progress: called, in the caller's thread, with each report of progress.
            sampling: how the next token is chosen where top-k or logits are revealed.

        Raises:
            ValueError: if the prompt is empty or too long.
            SessionError: if the session could not be opened, or broke.
        """
        tokens = self._encode(prompt, new_tokens, truncate)
        collector = AnswerCollector(on_progress)
        for answer in self.stream(tokens, new_tokens, reveal, collector.note, sampling):
            collector.note(answer)
        return collector.answer(tokens, self.tokenizer, reveal)

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
        tokens = self._encode(prompt, new_tokens, truncate)
        collector = AnswerCollector(on_progress)
        async with contextlib.aclosing(self.events(tokens, new_tokens, reveal, sampling)) as events:
            async for event in events:
                collector.note(event)
        return collector.answer(tokens, self.tokenizer, reveal)

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
            SessionError: if the session could not be opened, or broke.
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

        thread = CoroutineThread(pour)
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

    def _encode(self, prompt: str, new_tokens: int, truncate: bool) -> list[int]:
        return encode_prompt(self.tokenizer, prompt, self.description.shape.context, new_tokens, truncate)

    async def events(
        self,
        prompt_tokens: Sequence[int],
        new_tokens: int,
        reveal: RevealPolicy = RevealPolicy(),
        sampling: Sampling = Sampling(),
    ) -> AsyncGenerator[TokenAnswer | Progress, None]:
        """What `stream` iterates over, for callers with an event loop of their own.

        Raises:
            SessionError: if the session could not be opened, or broke.
        """
        question = Question(tuple(prompt_tokens), new_tokens, reveal, sampling)
        expected = self.estimate(len(prompt_tokens), new_tokens, reveal)
        tracker = ProgressTracker(self.description.shape.layers, expected, time.perf_counter())
        retries, chance = self.settings.retries, random.Random()
        for attempt in count():
            try:
                async with contextlib.aclosing(self._runner.run(question)) as events:
                    async for event in events:
                        if isinstance(event, Queued):
                            yield tracker.waiting(event.position)
                        else:
                            for item in tracker.note(event):
                                yield item
                return
            except UnavailableError as error:
                pause_seconds = retries.pause_seconds(attempt, error.wished_seconds, chance)
                if pause_seconds is None:
                    raise
            yield tracker.waiting()
            await asyncio.sleep(pause_seconds)
