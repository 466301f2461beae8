"""The private sessions of the proxy: how many there may be at a time, and those of one request, which run side by side."""

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
from hushlm.private.session.engine_links import OnSent
from hushlm.private.session.messages import SessionError, UnaskableError
from hushlm.proxy.errors import ApiError, internal_error

__all__ = ["RequestSessions", "SessionPool"]

log = logging.getLogger("hushlm.proxy")


class SessionPool:
    """The room that this proxy has for private sessions.

    Args:
        sessions: how many may run at a time.
        waiting: how many more may wait for a place, in order.
        end_early: whether a session ends as soon as its text has stopped. Otherwise it goes on to its last token, and nobody but this
            process can tell where the text ended.

    Attributes:
        idle, busy: set while no session is under way or waits, and while one is.
    """

    def __init__(self, sessions: int, waiting: int, end_early: bool) -> None:
        self.free = asyncio.Semaphore(sessions)
        self.end_early = end_early
        self.running = 0
        self.idle, self.busy = asyncio.Event(), asyncio.Event()
        self.idle.set()
        self._limit, self._taken = sessions + waiting, 0
        self._detached: set[asyncio.Task[None]] = set()
        self._under_way: set[RequestSessions] = set()

    def add_request(self, request: RequestSessions) -> None:
        """Note that a request is under way."""
        self._under_way.add(request)

    def remove_request(self, request: RequestSessions) -> None:
        """Note that a request is over."""
        self._under_way.discard(request)

    def stop(self) -> None:
        """Give up every request under way, from within the event loop."""
        for request in self._under_way:
            request.break_off()

    def take(self, count: int) -> None:
        """Take room for `count` sessions.

        Raises:
            ApiError: 429 if there is no room for so many now; 400 if there never will be.
        """
        if count > self._limit:
            raise ApiError(
                400, f"This takes {count} private sessions, and this proxy has room for {self._limit}: ask for fewer.", parameter="n"
            )
        if self._taken + count > self._limit:
            raise ApiError(429, "This proxy has as many questions as it takes: wait for an answer, and ask again.", "too_many_requests")
        self._taken += count
        self.idle.clear()
        self.busy.set()

    def give_back(self) -> None:
        """Give back the room of one session, which is over."""
        self._taken -= 1
        if not self._taken:
            self.busy.clear()
            self.idle.set()

    def detach(self, task: asyncio.Task[None]) -> None:
        """Let a session go on although its request is over."""
        self._detached.add(task)
        task.add_done_callback(self._detached.discard)

    async def close(self) -> None:
        """End the sessions that go on without their request."""
        for task in list(self._detached):
            task.cancel()
        await asyncio.gather(*self._detached, return_exceptions=True)


class RequestSessions:
    """Asks every question of one request. It is an async context manager: leaving it ends the sessions whose text has not stopped.

    Args:
        client: asks the server.
        pool: the room for sessions that all requests share.
        questions: one for each choice of the answer.
        name: the request's name in the log.
        on_sent: for each question, what sees all that its session's engine sends, see `Client.events`; empty where nobody wants to.

    Raises:
        ApiError: 429 on entering, if the pool has no room.
    """

    def __init__(self, client: Client, pool: SessionPool, questions: Sequence[Question], name: str, on_sent: Sequence[OnSent] = ()) -> None:
        self._client, self._pool, self._questions, self._name = client, pool, questions, name
        self._on_sent = on_sent
        self._inbox: asyncio.Queue[tuple[int | None, TokenAnswer | Progress | Exception | None]] = asyncio.Queue()
        self._stopped: dict[int, bool] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> RequestSessions:
        self._pool.take(len(self._questions))
        self._pool.add_request(self)
        for index, question in enumerate(self._questions):
            task = asyncio.create_task(self._ask(index, question))
            # Not in the task itself: one that is cancelled before it begins never gets to its end.
            task.add_done_callback(lambda _: self._pool.give_back())
            self._tasks.append(task)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.remove_request(self)
        ended = []
        for index, task in enumerate(self._tasks):
            if index in self._stopped and (self._stopped[index] or not self._pool.end_early):
                self._pool.detach(task)
            else:
                task.cancel()
                ended.append(task)
        await asyncio.gather(*ended, return_exceptions=True)

    def stop(self, index: int, complete: bool) -> None:
        """Note that the text of a choice has ended, so that no more of it is passed on.

        Args:
            index: number of the choice.
            complete: whether its last token has come, so that only the end of the session is left.
        """
        self._stopped[index] = complete
        self._inbox.put_nowait((index, None))

    def break_off(self) -> None:
        """End the request, because the proxy stops."""
        self._inbox.put_nowait((None, ApiError(503, "The proxy was stopped.", "stopped", retry=False)))

    async def events(self) -> AsyncGenerator[tuple[int, TokenAnswer | Progress], None]:
        """What the sessions bring, each with the number of its choice, until every choice is complete or was stopped.

        Raises:
            ApiError: 503 if there is no server or no place and nothing has begun, or if the proxy stops; 502 if a session broke; 500 for
                anything that nobody foresaw.
        """
        left = set(range(len(self._questions)))
        while left:
            index, item = await self._inbox.get()
            if index is None:
                assert isinstance(item, ApiError)
                raise item
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
            async with self._pool.free:
                self._pool.running += 1
                try:
                    on_sent = self._on_sent[index] if self._on_sent else None
                    async with contextlib.aclosing(
                        self._client.events(question.prompt_tokens, question.new_tokens, question.reveal, question.sampling, on_sent)
                    ) as events:
                        async for event in events:
                            if isinstance(event, TokenAnswer):
                                moved += event.traffic
                            elif event.phase == "note" and self._client.shelf.folder.is_dir():  # no news where nothing is ever prepared
                                log.info("%s.%d: %s", self._name, index, event.note)
                            await self._inbox.put((index, event))
                finally:
                    self._pool.running -= 1
            outcome = "finished"
            await self._inbox.put((index, None))
        except Exception as error:
            outcome = "failed"
            if not isinstance(error, SessionError):
                error = internal_error(f"{self._name}.{index}", error)
            await self._inbox.put((index, error))
        finally:
            # Lengths, times and sizes: the server knows them too.
            lengths = f"{len(question.prompt_tokens)} + {question.new_tokens} tokens, reveal {question.reveal}"
            seconds = time.monotonic() - start
            log.info("%s.%d: %s: %s after %.1f s, %.1f MB", self._name, index, lengths, outcome, seconds, moved.total_bytes / 1e6)

    def _error(self, error: Exception) -> Exception:
        alone = len(self._questions) == 1
        if isinstance(error, UnavailableError):
            # Nothing has begun, unless it was for another choice.
            return ApiError(503, str(error), "server_unavailable", retry=None if alone else False, retry_seconds=error.wished_seconds)
        if isinstance(error, UnaskableError):
            return ApiError(400, str(error), "unaskable_prompt", retry=False)
        if isinstance(error, SessionError):
            # Shares may have moved: `hushlm.private.client.retries` says why no program repeats such a question.
            return ApiError(502, str(error), "session_failed", retry=False)
        return error
