"""Places, the queue and the limits of each client, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("spu")

from hushlm.private.server.admission import Admission, ClientLimits, RefusedError, Ticket


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refusal(enter: Callable[[], Ticket]) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        enter()
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return caught.value


def test_places_then_the_queue_then_nothing() -> None:
    places = Admission(2, 2, ClientLimits())
    tickets = [places.enter(f"client {number}", 1) for number in range(4)]
    assert [ticket.position for ticket in tickets] == [0, 0, 1, 2]
    assert (places.running, places.waiting) == (2, 2)
    full = refusal(lambda: places.enter("another", 1))
    assert (full.reason, full.status) == ("full", 503)
    assert str(full) == "This server's 2 workers are busy and 2 sessions wait already: try again later."
    tickets[0].leave(1)
    assert [ticket.position for ticket in tickets[1:]] == [0, 0, 1]
    tickets[2].leave(0)
    assert [tickets[1].position, tickets[3].position] == [0, 0]


def test_one_who_gives_up_waiting_lets_the_others_move_up() -> None:
    places = Admission(1, 3, ClientLimits())
    first, second, third, fourth = [places.enter("a", 1) for _ in range(4)]
    third.leave(0)
    assert [ticket.position for ticket in (first, second, fourth)] == [0, 1, 2]


def test_a_wait_ends_when_something_changes() -> None:
    async def play() -> list[int]:
        places = Admission(1, 2, ClientLimits())
        first, second, third = [places.enter("a", 1) for _ in range(3)]
        for ticket in (second, third):
            await ticket.wait(0.01)  # what entering itself has changed
        waiting = asyncio.create_task(third.wait(30))
        await asyncio.sleep(0)
        first.leave(1)
        await asyncio.wait_for(waiting, 1)
        seen = [second.position, third.position]
        await third.wait(0.01)
        return [*seen, third.position]

    assert asyncio.run(play()) == [0, 1, 1]


def test_a_server_that_stops_keeps_the_running_and_refuses_the_rest() -> None:
    async def play() -> None:
        places = Admission(1, 2, ClientLimits())
        running, waiting = places.enter("a", 1), places.enter("b", 1)
        ended: list[str] = []
        running.on_end = lambda: ended.append("running")
        await waiting.wait(0.01)  # its own entry was a change
        task = asyncio.create_task(waiting.wait(30))
        await asyncio.sleep(0)
        places.close()
        with pytest.raises(RefusedError, match="is stopping and takes no new session"):
            await asyncio.wait_for(task, 1)
        await running.wait(0.01)
        stopping = refusal(lambda: places.enter("c", 1))
        assert (stopping.reason, stopping.status) == ("stopping", 503)
        idle = asyncio.create_task(places.idle())
        waiting.leave(0)
        await asyncio.sleep(0.01)
        assert not idle.done()
        running.leave(1)
        await asyncio.wait_for(idle, 1)
        assert ended == ["running"]

    asyncio.run(play())


def test_a_client_has_so_many_sessions_at_a_time() -> None:
    places = Admission(2, 2, ClientLimits(sessions=2))
    first, _ = places.enter("a", 1), places.enter("a", 1)
    limited = refusal(lambda: places.enter("a", 1))
    assert (limited.reason, limited.status) == ("sessions", 429)
    assert places.enter("b", 1).position == 1
    first.leave(1)
    assert places.enter("a", 1).position == 1


def test_a_client_s_tokens_count_for_a_while() -> None:
    clock = Clock()
    places = Admission(9, 0, ClientLimits(tokens=10, window_seconds=100), clock)
    places.enter("a", 6).leave(6)
    clock.now += 40
    places.enter("a", 4).leave(4)
    spent = refusal(lambda: places.enter("a", 5))
    assert (spent.reason, spent.status, spent.retry_seconds) == ("tokens", 429, 60)
    assert "10 of them are used: ask for fewer, or again in 60 s." in str(spent)
    assert refusal(lambda: places.enter("a", 7)).retry_seconds == 100
    places.enter("b", 10).leave(10)
    clock.now += 60
    places.enter("a", 6).leave(6)
    never = refusal(lambda: places.enter("a", 11))
    assert (never.reason, never.status) == ("tokens", 400)


def test_tokens_that_were_not_computed_come_back() -> None:
    places = Admission(9, 0, ClientLimits(tokens=10), Clock())
    ticket = places.enter("a", 10)
    assert refusal(lambda: places.enter("a", 1)).status == 429
    ticket.leave(3)
    places.enter("a", 7)


@pytest.mark.parametrize(
    ("limits", "part"),
    [({"sessions": 0}, "at least one session"), ({"tokens": 0}, "at least one token"), ({"window_seconds": 0}, "above 0 seconds")],
)
def test_limits_that_allow_nothing_are_refused(limits: dict[str, int], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        ClientLimits(**limits)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6), st.integers(0, 9), st.booleans()), max_size=60),
)
def test_no_order_of_events_breaks_a_limit_or_loses_a_place(
    workers: int, queue: int, sessions: int, events: list[tuple[str, int, int, bool]]
) -> None:
    """Against a plain count: who is in, first come first served, and tokens of the last 20 s."""
    clock = Clock()
    places = Admission(workers, queue, ClientLimits(sessions, 12, 20), clock)
    inside: list[tuple[str, Ticket]] = []
    used: list[tuple[float, str, int]] = []
    for client, tokens, which, leaves in events:
        clock.now += which
        if leaves and inside:
            _, ticket = inside.pop(which % len(inside))
            ticket.leave(ticket._use.tokens)
        else:
            mine = sum(name == client for name, _ in inside)
            spent = sum(count for start, name, count in used if name == client and start > clock.now - 20)
            allowed = mine < sessions and spent + tokens <= 12 and len(inside) < workers + queue
            try:
                inside.append((client, places.enter(client, tokens)))
                used.append((clock.now, client, tokens))
                assert allowed
            except RefusedError:
                assert not allowed
        positions = [ticket.position for _, ticket in inside]
        assert sorted(positions) == [0] * min(len(inside), workers) + list(range(1, len(inside) - workers + 1))
        assert [position for position in positions if position] == list(range(1, len(inside) - workers + 1))
        assert (places.running, places.waiting) == (min(len(inside), workers), max(0, len(inside) - workers))
    for _, ticket in inside:
        ticket.leave(0)
    clock.now += 21
    places.enter("d", 1).leave(0)
    assert not places._accounts.keys() - {"d"}


def test_questions_go_before_preparations() -> None:
    places = Admission(1, 2, ClientLimits(sessions=1))
    yielded = []
    preparing = places.enter("a", 0, preparation=True)
    preparing.on_yield = lambda: yielded.append("a")
    waiting = places.enter("b", 0, preparation=True)
    assert (preparing.position, waiting.position) == (0, 1)
    assert not yielded, "a preparation that waits makes nobody yield"
    question = places.enter("a", 1)
    assert (question.position, waiting.position) == (1, 2), "before the preparation that came first; the client's own does not count"
    assert yielded == ["a"]
    assert preparing.yielding
    places.enter("c", 1)
    assert yielded == ["a"], "once"
    full = refusal(lambda: places.enter("d", 0, preparation=True))
    assert full.reason == "full"
    preparing.leave(0)
    assert (question.position, waiting.position) == (0, 2)
    assert refusal(lambda: places.enter("b", 0, preparation=True)).reason == "sessions", "one preparation a client"


def test_preparations_leave_workers_free() -> None:
    places = Admission(3, 4, ClientLimits(), preparations=1)
    first, second = (places.enter(name, 0, preparation=True) for name in "ab")
    assert (first.position, second.position) == (0, 1)
    question = places.enter("c", 1)
    assert question.position == 0
    assert not first.yielding
    first.leave(0)
    assert second.position == 0
    places.close()
    assert second.yielding, "a server that stops waits for no further batch"
