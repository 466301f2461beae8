"""Which session gets a worker, and when: places, a bounded queue, and limits for each client. Preparations come after questions.

A ticket holds a place, first in the queue if all workers are busy, and is left once. Everything happens in one event loop, and
nothing is awaited between a check and what follows from it, so two requests cannot take the same place.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hushlm.private.session.messages import SessionError

__all__ = ["Admission", "ClientLimits", "RefusedError", "Ticket"]

STOPPING = "This server is stopping and takes no new session: ask again later, or ask another server."


class RefusedError(SessionError):
    """A session was refused; the message is one sentence for the client.

    Attributes:
        reason: the label under which it is counted, see `metrics.REASONS`.
        status: the HTTP status of the answer, see `session.messages`.
        retry_seconds: how long to wait before asking again may help; None where that is not known.
    """

    def __init__(self, sentence: str, reason: str, status: int, retry_seconds: float | None = None) -> None:
        super().__init__(sentence)
        self.reason, self.status, self.retry_seconds = reason, status, retry_seconds


@dataclass(frozen=True)
class ClientLimits:
    """What one client may use, by the name in its certificate.

    Attributes:
        sessions: how many sessions it may have at a time, waiting ones included; None sets no limit but the server's.
        tokens: how many tokens it may have generated within any `window_seconds`; None sets no limit.
        window_seconds: length of that window.
    """

    sessions: int | None = None
    tokens: int | None = None
    window_seconds: float = 3600.0

    def __post_init__(self) -> None:
        if self.sessions is not None and self.sessions < 1:
            raise ValueError(f"A client must be allowed at least one session, not {self.sessions}.")
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"A client must be allowed at least one token, not {self.tokens}.")
        if self.window_seconds <= 0:
            raise ValueError("The time over which a client's tokens are counted must be above 0 seconds.")


@dataclass
class _Use:
    """The tokens of one session that began at `start`."""

    start: float
    tokens: int


@dataclass
class _Account:
    """What one client uses and has used."""

    sessions: int = 0
    preparing: bool = False
    uses: deque[_Use] = field(default_factory=deque)


class Ticket:
    """A place, made by `Admission.enter`."""

    def __init__(self, admission: Admission, client: str, use: _Use, preparation: bool) -> None:
        self._admission, self.client, self._use, self.preparation = admission, client, use, preparation
        self.yielding = False
        """Whether a preparation is to end with the batch that it is making, because a question waits or the server stops."""
        self.on_yield: Callable[[], object] = lambda: None
        """Called when that becomes so."""
        self.changed = asyncio.Event()
        self.on_stop: Callable[[], object] = lambda: None
        """Called if the session must end before its time."""
        self.on_end: Callable[[], None] = lambda: None
        """Called once the place has been given back."""

    @property
    def position(self) -> int:
        """Place in the queue: 1 is the next to get a worker, 0 has one."""
        return self._admission.position(self)

    async def wait(self, seconds: float) -> None:
        """Wait until the position changes, but not longer than `seconds`.

        Raises:
            RefusedError: if the server stops; a ticket with a worker keeps it.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for can lose a cancellation, see `server_session`
                await self.changed.wait()
        self.changed.clear()
        if self._admission.closed and self.position:
            raise RefusedError(STOPPING, "stopping", 503)

    def leave(self, tokens: int) -> None:
        """Give the place back; only the tokens that were computed stay on the client's account."""
        self._use.tokens = tokens
        self._admission.leave(self)
        self.on_end()


class Admission:
    """The places of one server.

    Args:
        workers: how many sessions may run at a time.
        queue: how many sessions may wait.
        limits: what each client may use.
        clock: the time in seconds, by which the windows are measured.
        preparations: how many of the running sessions may be preparations.
    """

    def __init__(
        self, workers: int, queue: int, limits: ClientLimits, clock: Callable[[], float] = time.monotonic, preparations: int = 1
    ) -> None:
        self.workers, self.queue, self.limits, self.preparations = workers, queue, limits, preparations
        self.closed = False
        self._clock = clock
        self._running: list[Ticket] = []
        self._waiting: list[Ticket] = []
        self._accounts: dict[str, _Account] = {}
        self._left = asyncio.Event()

    @property
    def running(self) -> int:
        """How many sessions have a worker."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many sessions are in the queue."""
        return len(self._waiting)

    @property
    def questions_waiting(self) -> int:
        """How many of them are no preparations: these alone fill the queue for a question."""
        return sum(not ticket.preparation for ticket in self._waiting)

    def position(self, ticket: Ticket) -> int:
        """See `Ticket.position`."""
        return self._waiting.index(ticket) + 1 if ticket in self._waiting else 0

    def enter(self, client: str, tokens: int, preparation: bool = False) -> Ticket:
        """Take a place. A question waits before all preparations, and makes those that run end with the batch they are making.

        Args:
            client: the name in the client's certificate.
            tokens: how many tokens the session is going to generate.
            preparation: whether the session prepares answers; a client has one such session at a time, beside its others.

        Raises:
            RefusedError: if the server stops or is full, or the client has used what it may.
        """
        if self.closed:
            raise RefusedError(STOPPING, "stopping", 503)
        account = self._accounts.get(client, _Account())
        self._check(account, tokens, preparation)
        questions = self.questions_waiting
        if not self._has_place(preparation) and (self.waiting if preparation else questions) >= self.queue:
            raise RefusedError(self._full(), "full", 503)
        ticket = Ticket(self, client, _Use(self._clock(), tokens), preparation)
        self._accounts[client] = account
        account.sessions += not preparation
        account.preparing |= preparation
        account.uses.append(ticket._use)
        self._waiting.insert(self.waiting if preparation else questions, ticket)
        self._advance()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """See `Ticket.leave`."""
        (self._running if ticket in self._running else self._waiting).remove(ticket)
        account = self._accounts[ticket.client]
        account.sessions -= not ticket.preparation
        account.preparing &= not ticket.preparation
        for client in list(self._accounts):
            self._expire(client)
        self._advance()
        self._left.set()

    def close(self) -> None:
        """Refuse everybody from now on, those who wait too; running sessions go on."""
        self.closed = True
        for ticket in self._waiting:
            ticket.changed.set()
        self._yield()

    def stop(self) -> None:
        """End the running sessions; each gives its place back when its worker is gone."""
        for ticket in self._running:
            ticket.on_stop()

    async def idle(self) -> None:
        """Wait until nobody holds a place."""
        while self._running or self._waiting:
            self._left.clear()
            await self._left.wait()

    def _has_place(self, preparation: bool) -> bool:
        """Whether such a session could begin now."""
        preparing = sum(ticket.preparation for ticket in self._running)
        return self.running < self.workers and not (preparation and preparing >= self.preparations)

    def _yield(self) -> None:
        for ticket in self._running:
            if ticket.preparation and not ticket.yielding:
                ticket.yielding = True
                ticket.on_yield()

    def _check(self, account: _Account, tokens: int, preparation: bool) -> None:
        limits = self.limits
        # What would never be allowed first: after the other refusals asking again helps.
        if limits.tokens is not None and tokens > limits.tokens:
            raise RefusedError(
                f"This server lets a client ask for {_count(limits.tokens, 'token')} in {limits.window_seconds:.0f} s, "
                f"and {tokens} were asked for at once: ask for fewer.",
                "tokens",
                400,
            )
        if preparation and account.preparing:
            raise RefusedError("This client is preparing answers already: wait until that has ended.", "sessions", 429)
        if limits.sessions is not None and not preparation and account.sessions >= limits.sessions:
            raise RefusedError(
                f"This server lets a client have {_count(limits.sessions, 'session')} at a time: wait until one has ended.", "sessions", 429
            )
        if limits.tokens is None:
            return
        used = sum(use.tokens for use in self._recent(account))
        if used + tokens > limits.tokens:
            seconds = self._wait_seconds(account, used + tokens - limits.tokens)
            raise RefusedError(
                f"This server lets a client ask for {_count(limits.tokens, 'token')} in {limits.window_seconds:.0f} s, and "
                f"{used} of them are used: ask for fewer, or again in {seconds:.0f} s.",
                "tokens",
                429,
                seconds,
            )

    def _recent(self, account: _Account) -> list[_Use]:
        since = self._clock() - self.limits.window_seconds
        return [use for use in account.uses if use.start > since]

    def _wait_seconds(self, account: _Account, excess: int) -> float:
        """Seconds until `excess` tokens have left the window."""
        for use in self._recent(account):
            excess -= use.tokens
            if excess <= 0:
                return math.ceil(use.start + self.limits.window_seconds - self._clock())
        raise AssertionError("more tokens are in excess than were used")

    def _expire(self, client: str) -> None:
        """Forget what no limit looks at any more: the table holds clients that are here or were within the window."""
        account = self._accounts[client]
        account.uses = deque(self._recent(account))
        if not account.sessions and not account.preparing and not (account.uses and self.limits.tokens is not None):
            del self._accounts[client]

    def _advance(self) -> None:
        for ticket in list(self._waiting):
            if not self.closed and self._has_place(ticket.preparation):
                self._waiting.remove(ticket)
                self._running.append(ticket)
            ticket.changed.set()
        if self.questions_waiting:
            self._yield()

    def _full(self) -> str:
        busy = "worker is" if self.workers == 1 else f"{self.workers} workers are"
        waiting = f" and {_count(self.queue, 'session')} {'waits' if self.queue == 1 else 'wait'} already" if self.queue else ""
        return f"This server's {busy} busy{waiting}: try again later."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
