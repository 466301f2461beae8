"""Preparing answers at the client: session after session, until there are as many as were asked for."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from hushlm.plan import bucket_length
from hushlm.private.bundles import BundleInfo
from hushlm.private.client.answer import traffic_fields
from hushlm.private.client.client_settings import ClientSettings
from hushlm.private.client.control_channel import UnavailableError
from hushlm.private.client.prepared_shelf import ClientShelf
from hushlm.private.client.run_session import Preparation, SessionRunner
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.drafts import MOST_GUESSED
from hushlm.private.session.handshake import and_guesses
from hushlm.private.session.messages import MOST_BUNDLES, Queued, SessionError
from hushlm.private.session.process import WorkerEvent

__all__ = ["OnPreparation", "PreparationProgress", "PreparationReport", "check_lengths", "prepare_answers", "usual_prompt_tokens"]

SHORTEST_BUCKET = bucket_length(1, 1 << 20)


@dataclass(frozen=True)
class PreparationProgress:
    """Where a preparation is.

    Attributes:
        phase: "waiting" before a further attempt, "queued" at the server, "set-up" until the engine is ready, then "preparing".
        made: how many answers this call has stored at both sides.
        answers: how many it makes in all.
        done_share: share of its work that is done.
        seconds: time since it began.
        remaining_seconds: time for the rest at the pace so far; None before there is a pace.
        position: place in the server's queue, 1 being the next; None elsewhere.
    """

    phase: str
    made: int
    answers: int
    done_share: float
    seconds: float
    remaining_seconds: float | None
    position: int | None = None


OnPreparation = Callable[[PreparationProgress], None]


@dataclass
class PreparationReport:
    """What a preparation did.

    Attributes:
        held: how many prepared answers of these lengths there are now.
        disk_bytes: their size at this side.
        made: how many of them were made by this call.
        traffic: what making them moved at this side.
        set_up: what opening the sessions moved.
        sessions: how many sessions it took; more than one where preparing made way for questions.
        seconds: time from the call to its end.
    """

    held: int = 0
    disk_bytes: int = 0
    made: int = 0
    traffic: Traffic = field(default_factory=Traffic)
    set_up: Traffic = field(default_factory=Traffic)
    sessions: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The document of `hushlm prepare --json`."""
        return {
            "held": self.held,
            "disk_bytes": self.disk_bytes,
            "made": self.made,
            **traffic_fields(self.traffic),
            "seconds": round(self.seconds, 3),
            "sessions": self.sessions,
            "set_up": traffic_fields(self.set_up),
        }


def usual_prompt_tokens(context: int, tokens_each: int, draft: int = 0) -> int:
    """Length of prompts for which answers are prepared where nobody names one: the shortest bucket, less what the context does not hold."""
    return max(1, min(SHORTEST_BUCKET, context - tokens_each - draft))


def check_lengths(context: int, answers: int, tokens_each: int, prompt_tokens: int, draft: int = 0) -> None:
    """Raises: ValueError, in one sentence, if so many prepared answers of these lengths cannot be kept."""
    if min(answers, tokens_each, prompt_tokens) < 1:
        raise ValueError("At least one answer of at least one token, to prompts of at least one, can be prepared.")
    if answers > MOST_BUNDLES:
        raise ValueError(f"At most {MOST_BUNDLES} prepared answers are kept, not {answers}.")
    if not 0 <= draft <= MOST_GUESSED:
        raise ValueError(f"{draft} guesses in a pass cannot be checked: give between 0 and {MOST_GUESSED}.")
    if prompt_tokens + tokens_each + draft > context:
        raise ValueError(
            f"Prompts of {prompt_tokens} tokens and answers of {tokens_each}{and_guesses(draft)} exceed the context of {context} tokens: "
            "prepare for fewer."
        )


async def prepare_answers(
    runner: SessionRunner,
    shelf: ClientShelf,
    settings: ClientSettings,
    lengths: tuple[int, int],
    answers: int,
    draft: int,
    report: PreparationReport,
    stop: asyncio.Event,
) -> AsyncGenerator[PreparationProgress, None]:
    """Make prepared answers until there are `answers` of these lengths; those that are there already count.

    Closing the iterator gives the session up: what was stored at both sides stays.

    Args:
        runner: runs the sessions.
        shelf: takes what is made.
        settings: how often to ask again where there is no place.
        lengths: of prompts and of answers, in tokens.
        answers: how many there shall be.
        draft: how many tokens each pass of them guesses; those that guess another number do not count.
        report: filled while it goes on, so that it is right whenever this ends.
        stop: set when no further batch is wanted.

    Raises:
        SessionError: if a session could not be opened, or broke.
    """
    tracker = _Tracker(answers - len(_kept(shelf, lengths, draft)), report)
    chance, attempt = random.Random(), 0
    while tracker.missing > 0 and not stop.is_set():
        before = report.made
        try:
            async with contextlib.aclosing(runner.run(Preparation(*lengths, tracker.missing, draft, stop), shelf)) as events:
                async for event in events:
                    yield tracker.waiting(event.position) if isinstance(event, Queued) else tracker.note(event)
        except UnavailableError as error:
            pause_seconds = settings.retries.pause_seconds(attempt, error.wished_seconds, chance)
            if pause_seconds is None:
                raise
            attempt += 1
            yield tracker.waiting()
            await asyncio.sleep(pause_seconds)
            continue
        except SessionError as error:
            if report.made:
                raise SessionError(
                    f"{error} Before that, {report.made} were made and are kept: the same command makes the rest."
                ) from error
            raise
        finally:
            _take_stock(report, _kept(shelf, lengths, draft), tracker)
        if report.made == before:
            raise SessionError("The server ended the preparation before anything was made: try again later.")
        attempt = 0
    _take_stock(report, _kept(shelf, lengths, draft), tracker)


def _kept(shelf: ClientShelf, lengths: tuple[int, int], draft: int) -> list[BundleInfo]:
    return [info for info in shelf.fitting(*lengths) if info.draft == draft]


def _take_stock(report: PreparationReport, kept: list[BundleInfo], tracker: _Tracker) -> None:
    report.held, report.disk_bytes, report.seconds = len(kept), sum(info.size_bytes for info in kept), tracker.seconds


class _Tracker:
    """Makes progress of events, and keeps the report's counts."""

    def __init__(self, answers: int, report: PreparationReport) -> None:
        self._answers, self._report = answers, report
        self._start = time.perf_counter()
        self._asked = self._at_start = 0
        self._share = self._working_seconds = 0.0
        self._ready = self._start

    @property
    def missing(self) -> int:
        return self._answers - self._report.made

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def waiting(self, position: int | None = None) -> PreparationProgress:
        return self._progress("waiting" if position is None else "queued", position)

    def note(self, event: WorkerEvent) -> PreparationProgress:
        """Count an event of the worker. Returns: where the preparation is now."""
        report, moved = self._report, Traffic() if event.traffic is None else event.traffic.to_traffic()
        match event.event:
            case "listening" | "linked":
                return self._progress("set-up")
            case "ready":
                report.set_up += moved
                report.sessions += 1
                self._asked, self._at_start, self._ready = self.missing, report.made, time.perf_counter()
            case "work":
                assert event.share is not None
                self._share = (self._at_start + event.share * self._asked) / self._answers
            case "stored":
                report.made += 1
                report.traffic += moved
                self._share = max(self._share, report.made / self._answers)
        return self._progress("preparing")

    def _progress(self, phase: str, position: int | None = None) -> PreparationProgress:
        now, here = time.perf_counter(), self._at_start / self._answers
        done = self._share - here
        remaining = (1 - self._share) * (now - self._ready) / done if phase == "preparing" and done > 0 else None
        return PreparationProgress(phase, self._report.made, self._answers, self._share, self.seconds, remaining, position)
