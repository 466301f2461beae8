"""A hosted session, seen from the control connection. The worker is a stand-in: a real one that talks for minutes takes minutes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import cast

import pytest

from hushlm.config import ModelShape
from hushlm.private import hosting
from hushlm.private.admission import Admission, ClientLimits
from hushlm.private.description import ProgramDescription, RevealPolicy
from hushlm.private.listening import Peer
from hushlm.private.metrics import ServerMetrics
from hushlm.private.process import WorkerEvent, WorkerProcess
from hushlm.private.session import PROTOCOL_VERSION, Limits, SessionRequest, shape_of


class Talkative:
    """Says something every hundredth of a second, for a second."""

    def __init__(self) -> None:
        self._left = 100

    async def next(self) -> WorkerEvent:
        await asyncio.sleep(0.01)
        self._left -= 1
        return WorkerEvent(event="step" if self._left else "finished", seconds=0.0)


def test_a_talkative_worker_does_not_silence_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "ALIVE_SECONDS", 0.1)
    request = SessionRequest(
        protocol_version=PROTOCOL_VERSION,
        engine_version="x",
        architecture="SM",
        shape=shape_of(ModelShape()),
        fingerprint="0" * 64,
        prompt_length=1,
        new_tokens=1,
        reveal=RevealPolicy(),
        engine_address="127.0.0.1:9",
        engine_certificate="x" * 64,
    )
    limits = Limits(new_tokens=1, session_seconds=30, reveal=RevealPolicy())
    settings = hosting.Hosting(Path(), cast(ProgramDescription, None), "x", 30.0, 30.0, 30.0, limits)
    places = Admission(1, 0, ClientLimits())
    metrics = ServerMetrics(1, lambda: 0, lambda: 0)
    session = hosting.HostedSession(settings, request, Peer("127.0.0.1", "a", "0" * 64), places.enter("a", 1), metrics)
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
