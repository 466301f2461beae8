"""A hosted session, seen from the control connection. The worker is a stand-in: a real one that talks for minutes takes minutes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.cost import LAN, WAN
from hushlm.private.program.description import ProgramDescription, RevealPolicy, describe
from hushlm.private.server import server_session
from hushlm.private.server.admission import Admission, ClientLimits
from hushlm.private.server.link_desk import LinkDesk
from hushlm.private.server.listeners import Peer
from hushlm.private.server.metrics import ServerMetrics
from hushlm.private.server.prepared_shelf import PreparedShelf, PrepareSettings
from hushlm.private.session.messages import PROTOCOL_VERSION, Limits, NetworkBetween, SessionRequest, shape_of
from hushlm.private.session.process import WorkerEvent, WorkerProcess
from hushlm.shapes import GPT2_SMALL


class Talkative:
    """Says something every hundredth of a second, for a second."""

    def __init__(self) -> None:
        self._left = 100

    async def next(self) -> WorkerEvent:
        await asyncio.sleep(0.01)
        self._left -= 1
        return WorkerEvent(event="step" if self._left else "finished", seconds=0.0)


def asked(**changed: object) -> SessionRequest:
    """A question of one token, changed as told."""
    request = SessionRequest(
        protocol_version=PROTOCOL_VERSION,
        engine_version="x",
        architecture="SM",
        shape=shape_of(ModelShape()),
        fingerprint="0" * 64,
        prompt_length=1,
        new_tokens=1,
        reveal=RevealPolicy(),
        engine_certificate="x" * 64,
        kind="ask",
        answers=0,
        bundle=None,
        held=None,
        draft=0,
        network=None,
        near=False,
    )
    return request.model_copy(update=changed)


@pytest.fixture
def session() -> server_session.ServerSession:
    """For a worker that the test brings."""
    request = asked()
    limits = Limits(new_tokens=1, session_seconds=30, reveal=RevealPolicy())
    settings = server_session.ServedModel(Path(), cast(ProgramDescription, None), "x", 30.0, 30.0, 30.0, limits)
    places = Admission(1, 0, ClientLimits())
    metrics = ServerMetrics(1, lambda: 0, lambda: 0)
    shelf = PreparedShelf(PrepareSettings(), settings.description, metrics)
    peer = Peer("127.0.0.1", "a", "0" * 64)
    return server_session.ServerSession(settings, request, peer, places.enter("a", 1), metrics, shelf, LinkDesk())


def test_a_talkative_worker_does_not_silence_the_server(monkeypatch: pytest.MonkeyPatch, session: server_session.ServerSession) -> None:
    monkeypatch.setattr(server_session, "ALIVE_SECONDS", 0.1)
    heard: list[tuple[float, str]] = []

    async def follow() -> None:
        clock = asyncio.get_running_loop().time

        async def send(message: object) -> None:
            body = cast(dict, message)["body"]
            heard.append((clock(), json.loads(body)["event"]))

        await session._follow(cast(WorkerProcess, Talkative()), send)

    asyncio.run(follow())
    assert {event for _, event in heard} == {"alive"}
    assert len(heard) >= 5


class Patient:
    """Says something when the test lets it, and then nothing more."""

    def __init__(self) -> None:
        self.word = asyncio.get_running_loop().create_future()
        self.asked = 0

    async def next(self) -> WorkerEvent:
        self.asked += 1
        if self.asked > 1:
            await asyncio.sleep(60)
        return await self.word


@pytest.mark.timeout(30)
@pytest.mark.parametrize("moments", range(5))
def test_who_hangs_up_at_the_moment_of_an_event_is_heard(session: server_session.ServerSession, moments: int) -> None:
    """However many turns of the event loop lie between a worker's event and the end of the connection."""

    async def hang_up() -> None:
        async def send(_: object) -> None:
            pass

        worker = Patient()
        following = asyncio.create_task(session._follow(cast(WorkerProcess, worker), send))
        await asyncio.sleep(0.05)
        worker.word.set_result(WorkerEvent(event="linked", seconds=0.0))
        for _ in range(moments):
            await asyncio.sleep(0)
        following.cancel()
        await asyncio.wait({following}, timeout=2)
        assert following.cancelled()

    asyncio.run(hang_up())


def test_a_preparation_takes_the_processors_and_a_question_those_of_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_session, "processors", lambda: 40)
    limits = Limits(new_tokens=1, session_seconds=30, reveal=RevealPolicy())
    program = describe(parse("SM2+R"), ModelShape())
    served = server_session.ServedModel(Path(), program, "x", 30.0, 30.0, 30.0, limits)
    assert (served.threads("prepare"), served.threads("ask")) == (16, program.engine.threads)
    named = replace(served, engine_threads=5)
    assert (named.threads("prepare"), named.threads("ask")) == (5, 5)


def test_the_server_says_how_transfers_are_made_by_public_sizes_and_the_network() -> None:
    limits = Limits(new_tokens=1, session_seconds=30, reveal=RevealPolicy())
    small = ModelShape(layers=2, heads=2, width=32, context=32, vocabulary=64)
    lan, wan = NetworkBetween.of(LAN), NetworkBetween.of(WAN)
    served = server_session.ServedModel(Path(), describe(parse("SM2+R"), small), "x", 30.0, 30.0, 30.0, limits)
    assert served.transfers(asked(network=lan)) == "softspoken"
    assert served.transfers(asked(network=lan, bundle="0" * 32)) == "softspoken"
    assert served.transfers(asked()) == "ferret", "a wide-area network is meant where none is named"
    assert served.transfers(asked(near=True)) == "softspoken", "but for a server at an address of the client's own machine"
    assert served.transfers(asked(near=True, network=wan)) == "ferret", "a network that is named counts"
    assert served.transfers(asked(network=lan, kind="prepare")) == "ferret", "nothing is asked for"
    large = replace(served, description=describe(parse("SM2+R"), GPT2_SMALL))
    assert large.transfers(asked(network=lan, prompt_length=120)) == "ferret"
