"""The client: asks a server to continue a prompt, and shows it nothing of the prompt but its length.

The computation runs in a worker process, so whatever becomes of the engine, the caller gets one sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from hushlm.cost import LAN, Network
from hushlm.plan import bucket_length
from hushlm.private.bundles import BundleInfo, BundleStoreError
from hushlm.private.client.answer import AnswerCollector, PrivateAnswer
from hushlm.private.client.candidates import candidate_tokens, named_answer, policy_of
from hushlm.private.client.client_settings import ClientSettings
from hushlm.private.client.control_channel import ControlChannel, UnavailableError
from hushlm.private.client.coroutine_thread import iterate
from hushlm.private.client.estimate import Estimate, estimate
from hushlm.private.client.prepared_shelf import ClientShelf, prepared_folder
from hushlm.private.client.preparing import (
    OnPreparation,
    PreparationProgress,
    PreparationReport,
    check_lengths,
    prepare_answers,
    usual_prompt_tokens,
)
from hushlm.private.client.progress import OnProgress, Progress, ProgressTracker
from hushlm.private.client.prompts import encode_prompt, load_tokenizer
from hushlm.private.client.run_session import Question, SessionRunner
from hushlm.private.engine import engine_version
from hushlm.private.keys.certificates import CLIENT
from hushlm.private.prepared.placing import PlacementError, check_placement
from hushlm.private.program.description import RevealPolicy, load_description
from hushlm.private.program.draft_model import check_draft_model
from hushlm.private.program.sampling import Sampling
from hushlm.private.program.token_answer import TokenAnswer
from hushlm.private.session.engine_links import OnSent
from hushlm.private.session.messages import BundleProblem, BundleRefusedError, Queued, SessionError, UnaskableError

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
        ValueError: one sentence: the folder is not an export, the keys are unusable, there is no engine, the address is malformed, or the
            model that guesses has another tokenizer.
    """

    def __init__(self, model: Path, server: str, keys: Path, name: str = CLIENT, settings: ClientSettings = ClientSettings()) -> None:
        self.description = load_description(model)
        self.tokenizer = load_tokenizer(model, self.description)
        if settings.draft_model is not None:
            # The worker runs somewhere else.
            settings = replace(settings, draft_model=check_draft_model(settings.draft_model, self.tokenizer))
        self.settings = settings
        control = ControlChannel(server, keys, name, settings.connect_seconds, settings.alive_seconds)
        self.shelf = ClientShelf(settings.prepared_folder or prepared_folder(keys, name), server, self.description)
        self._runner = SessionRunner(model.absolute(), self.description, engine_version(), control, settings)

    @property
    def context(self) -> int:
        """How many tokens the model reads and writes at most."""
        return self.description.shape.context

    @property
    def identity(self) -> str:
        """The program's fingerprint, in hexadecimal."""
        return self.description.fingerprint

    def estimate(
        self,
        prompt_length: int,
        new_tokens: int,
        reveal: RevealPolicy = RevealPolicy(),
        network: Network | None = None,
        prepared: bool = False,
        draft: int = 0,
    ) -> Estimate:
        """What a question is going to move and how long it will take, before it is asked; lengths are in tokens.

        Args:
            network: for which seconds are predicted; that of the settings by default, or a local one.
            prepared: whether it is answered from material that was prepared before.
            draft: how many tokens each pass of such an answer guesses; what is predicted holds if all guesses are wrong.
        """
        link = network or self.settings.network or LAN
        named, near = self.settings.network, self._runner.control.near
        return estimate(self.description, prompt_length, new_tokens, reveal, link, prepared, draft, named, near)

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

    def score(self, prompt: str, candidates: Sequence[str], truncate: bool = False, on_progress: OnProgress | None = None) -> PrivateAnswer:
        """The likeliest of some candidates after a prompt: one pass, of whose logits this side learns nothing else.

        The server learns which tokens the candidates are, and not which of them it is. Each must be one token after the prompt; a space is
        put between where a word would have one, see `candidate_tokens`.

        Args:
            prompt: the text before them.
            candidates: what it may go on with, such as ("yes", "no"); at least 2.
            truncate, on_progress: as those of `ask`.

        Returns: the answer, with the `candidate` as it was given.

        Raises:
            ValueError: if the prompt is empty or too long, a candidate is not one token, or two are the same one.
            SessionError: if the session could not be opened, or broke.
        """
        named = candidate_tokens(self.tokenizer, prompt, candidates)
        return named_answer(self.ask(prompt, 1, policy_of(named), truncate, on_progress), named)

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
        with contextlib.closing(iterate(lambda: self.events(prompt_tokens, new_tokens, reveal, sampling))) as items:
            for item in items:
                if not isinstance(item, Progress):
                    yield item
                elif on_progress is not None:
                    on_progress(item)

    def prepare(
        self,
        answers: int,
        tokens_each: int = 8,
        prompt_tokens: int | None = None,
        on_progress: OnPreparation | None = None,
        draft: int = 0,
    ) -> PreparationReport:
        """Prepare answers before there are questions, until there are `answers` of these lengths; what is there already counts.

        What is interrupted keeps every answer that was stored at both sides.

        Args:
            answers: how many there shall be.
            tokens_each: how many tokens an answer may have.
            prompt_tokens: length of the prompts, rounded up to a whole bucket (32); only prompts of that bucket can use them. By default
                the first bucket.
            on_progress: called, in the caller's thread, with each report of progress.
            draft: how many tokens each pass of an answer guesses, from what came after the same tokens before, and checks together with its
                own; greedy answers alone can use them. The material grows with it.

        Raises:
            ValueError: if the lengths do not fit the context.
            SessionError: if the session could not be opened, or broke, or the server has no room.
        """
        report = PreparationReport()
        if prompt_tokens is None:
            prompt_tokens = usual_prompt_tokens(self.description.shape.context, tokens_each, draft)
        with contextlib.closing(
            iterate(lambda: self.preparation(answers, tokens_each, prompt_tokens, report, asyncio.Event(), draft))
        ) as items:
            for item in items:
                if on_progress is not None:
                    on_progress(item)
        return report

    def preparation(
        self, answers: int, tokens_each: int, prompt_tokens: int, report: PreparationReport, stop: asyncio.Event, draft: int = 0
    ) -> AsyncGenerator[PreparationProgress, None]:
        """What `prepare` iterates over, for callers with an event loop of their own; `report` is filled, `stop` ends it between batches.

        Raises:
            ValueError: if the lengths do not fit the context.
        """
        check_lengths(self.description.shape.context, answers, tokens_each, prompt_tokens, draft)
        return prepare_answers(self._runner, self.shelf, self.settings, (prompt_tokens, tokens_each), answers, draft, report, stop)

    def _encode(self, prompt: str, new_tokens: int, truncate: bool) -> list[int]:
        return encode_prompt(self.tokenizer, prompt, self.description.shape.context, new_tokens, truncate)

    async def events(
        self,
        prompt_tokens: Sequence[int],
        new_tokens: int,
        reveal: RevealPolicy = RevealPolicy(),
        sampling: Sampling = Sampling(),
        on_sent: OnSent | None = None,
    ) -> AsyncGenerator[TokenAnswer | Progress, None]:
        """What `stream` iterates over, for callers with an event loop of their own.

        Args:
            on_sent: called with all that this side's engine sends, which is ciphertext, see `engine_links`; a `SentSample` keeps its end.

        Raises:
            SessionError: if the session could not be opened, or broke.
        """
        question = Question(tuple(prompt_tokens), new_tokens, reveal, sampling)
        start, choice, server_keeps = time.perf_counter(), self.settings.prepared, True
        with contextlib.ExitStack() as given_back:
            notes: list[str] = []
            while True:
                bundle = self._take(question) if choice != "never" and server_keeps else None
                if bundle is not None:
                    given_back.callback(self.shelf.give_back, bundle)
                    try:
                        await asyncio.to_thread(check_placement, question.prompt_tokens, self.description.shape)
                    except PlacementError as error:
                        raise UnaskableError(str(error)) from None
                tracker = await asyncio.to_thread(self._tracker, question, start, bundle)
                if bundle is None and choice != "never" and server_keeps:
                    missing = self._missing(question)
                    if choice == "only":
                        raise UnavailableError(f"{missing}, or leave `--prepared only` out.")
                    notes.append(f"{missing}; without, everything is computed now.")
                if self.settings.draft_model is not None and (bundle is None or not bundle.draft):
                    notes.append("Nothing is guessed in this answer: `hushlm prepare --draft K` makes answers that check guesses.")
                try:
                    async with contextlib.aclosing(
                        self._attempts(question, tracker, None if bundle is None else bundle.identity, on_sent)
                    ) as events:
                        async for event in events:
                            # Once the session is open: what cannot be asked at all needs no advice on how to prepare it.
                            while notes and isinstance(event, Progress) and event.phase == "set-up":
                                yield tracker.told(notes.pop())
                            yield event
                    return
                except BundleRefusedError as error:
                    assert bundle is not None
                    yield tracker.told(str(error))
                    if error.problem is BundleProblem.GONE:
                        await asyncio.to_thread(self.shelf.drop, bundle)
                    elif error.problem is BundleProblem.NONE_KEPT:
                        server_keeps = False
                        if choice == "only":
                            raise

    def _tracker(self, question: Question, start: float, bundle: BundleInfo | None) -> ProgressTracker:
        lengths, prepared = (question.prompt_length, question.new_tokens), bundle is not None
        expected = self.estimate(*lengths, question.reveal, prepared=prepared, draft=bundle.draft if bundle else 0)
        return ProgressTracker(self.description.shape.layers, expected, start, prepared)

    def _take(self, question: Question) -> BundleInfo | None:
        """Raises: SessionError, if this side's store cannot be used; nothing has begun."""
        try:
            return self.shelf.take(question.prompt_length, question.new_tokens, question.greedy)
        except BundleStoreError as error:
            raise SessionError(f"{error} `--prepared never` asks without them.") from error

    def _missing(self, question: Question) -> str:
        """The beginning of a sentence on what is not prepared, and how to prepare it."""
        context, new_tokens = self.description.shape.context, question.new_tokens
        length = min(bucket_length(question.prompt_length, context), context - new_tokens)
        unusable = self.shelf.unusable()
        spoilt = f" ({unusable} that are stored cannot be used: `hushlm prepared list` says why)" if unusable else ""
        return (
            f"No answer is prepared for a prompt of {question.prompt_length} tokens and {new_tokens} new ones{spoilt}: "
            f"make some before you ask, with `hushlm prepare ... --prompt-tokens {length} --tokens-each {new_tokens}`"
        )

    async def _attempts(
        self, question: Question, tracker: ProgressTracker, bundle: str | None, on_sent: OnSent | None
    ) -> AsyncGenerator[TokenAnswer | Progress, None]:
        """One session, asked for again where there was no place."""
        retries, chance = self.settings.retries, random.Random()
        for attempt in count():
            try:
                async with contextlib.aclosing(self._runner.run(question, self.shelf, bundle, on_sent)) as events:
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
