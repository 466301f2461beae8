"""The private sessions of one request, side by side, with a bound on how many there are at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Sequence

from hushlm.private.client.client import Client, Progress
from hushlm.private.client.control_channel import UnavailableError
from hushlm.private.client.run_session import Question
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.token_answer import TokenAnswer
from hushlm.private.session.messages import SessionError
from hushlm.proxy.errors import ApiError

__all__ = ["RequestSessions", "SessionPool"]

log = logging.getLogger("hushlm.proxy")


class SessionPool:
    """Room for private sessions of this proxy.

    Args:
        sessions: at a time.
        waiting: that may wait for a place, in order.
        end_early: end a session as soon as its text has stopped. Otherwise it goes on to its last token, and nobody but this process
            can tell where the text ended.
    """

    def __init__(self, sessions: int, waiting: int, end_early: bool) -> None:
        self.free = asyncio.Semaphore(sessions)
        self.end_early = end_early
        self.running = 0
        self._limit, self._taken = sessions + waiting, 0
        self._left_alone: set[asyncio.Task[None]] = set()
        self._under_way: set[RequestSessions] = set()

    def enter(self, answering: RequestSessions) -> None:
        """A request is under way."""
        self._under_way.add(answering)

    def leave_off(self, answering: RequestSessions) -> None:
        """It no longer is."""
        self._under_way.discard(answering)

    def stop(self) -> None:
        """Give up every request under way, from within the event loop."""
        for answering in self._under_way:
            answering.break_off()

    def take(self, count: int) -> None:
        """Raises ApiError: 429, there is no room for this many sessions now; 400, there never will be."""
        if count > self._limit:
            raise ApiError(
                400, f"This takes {count} private sessions, and this proxy has room for {self._limit}: ask for fewer.", parameter="n"
            )
        if self._taken + count > self._limit:
            raise ApiError(429, "This proxy has as many questions as it takes: wait for an answer, and ask again.", "too_many_requests")
        self._taken += count

    def give_back(self) -> None:
        """One session is over."""
        self._taken -= 1

    def leave(self, task: asyncio.Task[None]) -> None:
        """Let a session go on without its request."""
        self._left_alone.add(task)
        task.add_done_callback(self._left_alone.discard)

    async def close(self) -> None:
        """End what goes on without its request."""
        for task in list(self._left_alone):
            task.cancel()
        await asyncio.gather(*self._left_alone, return_exceptions=True)


class RequestSessions:
    """Asks every question of a request. An async context manager: leaving it ends the sessions whose text has not stopped.

    Args:
        client: asks.
        places: shared by all requests.
        questions: one a choice.
        name: of the request, in the log.

    Raises:
        ApiError: 429.
    """

    def __init__(self, client: Client, places: SessionPool, questions: Sequence[Question], name: str) -> None:
        self._client, self._places, self._questions, self._name = client, places, questions, name
        self._inbox: asyncio.Queue[tuple[int | None, TokenAnswer | Progress | Exception | None]] = asyncio.Queue()
        self._stopped: dict[int, bool] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> RequestSessions:
        self._places.take(len(self._questions))
        self._places.enter(self)
        for index, question in enumerate(self._questions):
            task = asyncio.create_task(self._ask(index, question))
            # Not in the task itself: one that is cancelled before it begins never gets to its end.
            task.add_done_callback(lambda _: self._places.give_back())
            self._tasks.append(task)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._places.leave_off(self)
        ended = []
        for index, task in enumerate(self._tasks):
            if index in self._stopped and (self._stopped[index] or not self._places.end_early):
                self._places.leave(task)
            else:
                task.cancel()
                ended.append(task)
        await asyncio.gather(*ended, return_exceptions=True)

    def stop(self, index: int, complete: bool) -> None:
        """The text of a choice has ended, and nothing more comes of it; `complete` with its last token, which leaves the goodbyes."""
        self._stopped[index] = complete
        self._inbox.put_nowait((index, None))

    def break_off(self) -> None:
        """End the request: the proxy stops."""
        self._inbox.put_nowait((None, ApiError(503, "The proxy was stopped.", "stopped", retry=False)))

    async def events(self) -> AsyncGenerator[tuple[int, TokenAnswer | Progress], None]:
        """Number of the choice, and what became of it, until every choice is complete or was stopped.

        Raises:
            ApiError: 503, no server or no place and nothing begun, or the proxy stops; 502, a session broke.
        """
        left = set(range(len(self._questions)))
        while left:
            index, item = await self._inbox.get()
            if isinstance(item, ApiError):
                raise item
            assert index is not None
            if item is None:
                left.discard(index)
            elif isinstance(item, Exception):
                if index in left:
                    raise self._error(item) from item
            elif index in left and index not in self._stopped:
                yield index, item

    async def _ask(self, index: int, question: Question) -> None:
        start, moved, outcome = time.monotonic(), Traffic(), "given up"
        try:
            async with self._places.free:
                self._places.running += 1
                try:
                    async with contextlib.aclosing(
                        self._client.events(question.prompt_tokens, question.new_tokens, question.reveal, question.sampling)
                    ) as events:
                        async for event in events:
                            if isinstance(event, TokenAnswer):
                                moved += event.traffic
                            await self._inbox.put((index, event))
                finally:
                    self._places.running -= 1
            outcome = "finished"
            await self._inbox.put((index, None))
        except Exception as error:
            outcome = "failed"
            if not isinstance(error, SessionError):
                log.exception("%s.%d", self._name, index)
            await self._inbox.put((index, error))
        finally:
            # Lengths, times and sizes: the server knows them too.
            lengths = f"{len(question.prompt_tokens)} + {question.new_tokens} tokens, reveal {question.reveal}"
            seconds = time.monotonic() - start
            log.info("%s.%d: %s: %s after %.1f s, %.1f MB", self._name, index, lengths, outcome, seconds, moved.total_bytes / 1e6)

    def _error(self, error: Exception) -> ApiError:
        alone = len(self._questions) == 1
        if isinstance(error, UnavailableError):
            # Nothing has begun, unless it was for another choice.
            return ApiError(503, str(error), "server_unavailable", retry=None if alone else False, retry_seconds=error.wished_seconds)
        if isinstance(error, SessionError):
            # Shares may have moved: `hushlm.private.client.retries` says why such a question is not repeated by a program.
            return ApiError(502, str(error), "session_failed", retry=False)
        return ApiError(500, "The proxy failed on an internal error: see its log.", "internal_error", retry=False)
